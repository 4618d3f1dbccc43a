"""Animate Portrait end to end in real ComfyUI with the bundled model."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import pytest
import torch
from svdp.errors import UserError

from .conftest import load_model, write_adapter

FRAMES = 18  # more than one segment


@pytest.fixture(autouse=True)
def nothing_kept(comfy_on_path) -> None:
    from svdp.nodes.kept import KEPT

    KEPT.clear()


def animate(portrait: torch.Tensor, driving: Any, **changed: Any) -> tuple[Any, ...]:
    """Video, images, mask, sheet, report."""
    from svdp.nodes.animate import SVDPAnimate

    settings: dict[str, Any] = {
        "seed": 1,
        "mode": "model",
        "motion": "absolute",
        "follow": 1.0,
        "sampling": {"sampling": "chosen", "steps": 2},
        "max_frames": FRAMES,
        "paste_back": False,
        "keep_as": "",
        "eyes": True,
        "nose": True,
        "mouth": True,
        "source_face": "largest",
        "driving_face": "largest",
        "fps": 25.0,
    }
    settings |= changed
    count = settings.pop("max_frames")
    settings["length"] = {"length": "beginning", "frames": count} if count else {"length": "whole clip"}
    return SVDPAnimate.execute(portrait, driving, **settings).args


@pytest.fixture(scope="module")
def media(comfy_on_path) -> tuple[torch.Tensor, Any]:
    """The bundled portrait and clip."""
    from svdp.nodes.examples import SVDPExampleMedia

    return SVDPExampleMedia.execute("fair hair", "woman talking").args


def test_video_sheet_and_report(media, bundled_file):
    from svdp.model.adapter import load_adapter

    portrait, driving = media
    video, images, mask, sheet, report = animate(portrait, driving)
    moved = video.get_components().images
    assert float((moved[0] - moved[-1]).abs().mean()) > 0.002
    parts = video.get_components()
    side = load_adapter(bundled_file("mini_adapter.safetensors")).adapter.config.resolution
    assert parts.images.shape == (FRAMES, side, side, 3)
    assert parts.frame_rate == Fraction(30)
    with av.open(video.get_stream_source()) as file:  # ComfyUI 0.15 itself reads one packet of sound with PyAV 18
        (sound,) = file.streams.audio
        assert float(sound.duration * sound.time_base) == pytest.approx(FRAMES / 30, abs=0.1)
    assert images.shape == parts.images.shape and mask.shape == images.shape[:3] and float(mask.min()) == 1
    assert float((images - parts.images).abs().mean()) < 0.02, "the video is the images, compressed"
    assert sheet.shape[0] == 1 and sheet.shape[1] > 4 * 160
    assert f"{FRAMES} frames of 320x320" in report and "segment 2" in report


def test_pasted_into_the_whole_picture(media):
    portrait, driving = media
    video, _, mask, _, _ = animate(portrait, driving, max_frames=2, paste_back=True, motion="relative")
    images = video.get_components().images
    assert images.shape == (2, *portrait.shape[1:])
    corner = (images[:, :20, :20] - portrait[:, :20, :20]).abs()
    assert float(corner.mean()) < 0.02  # what the square does not touch stays
    assert mask.shape == images.shape[:3] and float(mask[:, :20, :20].max()) == 0 and float(mask.max()) == 1


def test_a_video_from_memory_and_a_part_of_one_are_taken_as_they_are(media):
    from comfy_api.latest import InputImpl, Types

    portrait, driving = media
    parts = driving.get_components()
    made = InputImpl.VideoFromComponents(Types.VideoComponents(images=parts.images[:5], frame_rate=Fraction(10)))
    video = animate(portrait, made, max_frames=0)[0].get_components()
    assert len(video.images) == 5 and video.frame_rate == 10 and video.audio is None
    part = driving.as_trimmed(0.5, 0.2, False)
    assert len(animate(portrait, part, max_frames=0)[0].get_components().images) == len(part.get_components().images)


@pytest.mark.parametrize("cut", [(slice(0, 201), slice(0, 199), 3), (slice(0, 200), slice(0, 199), 4)])
def test_odd_sides_and_transparency_from_memory_are_taken(media, cut):
    from comfy_api.latest import InputImpl, Types

    portrait, driving = media
    rows, columns, channels = cut
    images = torch.nn.functional.interpolate(driving.get_components().images[:2].movedim(-1, 1), (201, 201)).movedim(
        1, -1
    )
    images = torch.cat([images, torch.ones_like(images[..., :1])], -1)[:, rows, columns, :channels]
    made = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(10)))
    assert len(animate(portrait, made, max_frames=0)[0].get_components().images) == 2


@pytest.mark.parametrize("motion", ["absolute", "relative"])
def test_a_draft_needs_no_model_and_has_the_portraits_resolution(media, motion, monkeypatch):
    from svdp.nodes import animation

    monkeypatch.setattr(animation, "complete_model", None)
    portrait, driving = media
    video, _, _, sheet, report = animate(portrait, driving, mode="draft", max_frames=4, motion=motion)
    images = video.get_components().images
    assert images.shape[0] == 4 and images.shape[1] == images.shape[2] and images.shape[1] % 16 == 0
    assert f"squares of {images.shape[1]} pixels" in report and sheet.shape[2] > 4 * 100
    assert float((images[0] - images[-1]).abs().mean()) > 0.001
    pasted = animate(portrait, driving, mode="draft", max_frames=2, paste_back=True, motion=motion)[0]
    whole = pasted.get_components().images
    assert whole.shape == (2, *portrait.shape[1:])
    assert float((whole[:, :20, :20] - portrait[:, :20, :20]).abs().mean()) < 0.02


def test_the_square_of_a_draft_is_as_large_as_the_face_and_no_larger_than_the_limit(comfy_on_path):
    from dataclasses import replace as changed

    from svdp.nodes.animation import draft_side
    from svdp.nodes.examples import SVDPExampleMedia
    from svdp.nodes.media import to_uint8
    from svdp.signals.track import detect_face

    face = detect_face(to_uint8(SVDPExampleMedia.execute("fair hair", "woman talking").args[0][0]))
    own = draft_side(face, 1.4)
    larger = changed(face, landmarks=face.landmarks * 1.5)
    assert 1.4 * own < draft_side(larger, 1.4) < 1.6 * own
    assert draft_side(changed(face, landmarks=face.landmarks * 50), 1.4) == 1024


def test_an_adapter_with_a_posed_source_gets_one(media, tmp_path, base_path, bundled_file):
    import comfy.sd
    import comfy.utils
    from svdp.model.backends.comfy import load_adapter

    path = write_adapter(
        tmp_path / "a.safetensors", posed=True, copy_gate=True, driving="aligned", aligned="pixels", trained=False,
        resolution=64, crop_scale=1.4, gate="open",
    )  # fmt: skip
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(bundled_file("mini_autoencoder.safetensors"))))
    connected = {"model": load_model(base_path), "adapter": load_adapter(str(path), path.name), "vae": vae}
    video, _, _, sheet, _ = animate(*media, max_frames=6, **connected)
    assert video.get_components().images.shape == (6, 64, 64, 3)
    plain = animate(*media, max_frames=6, mode="draft")[3]
    assert sheet.shape[1] > plain.shape[1], "the sheet has a row more: the posed source"


def test_a_half_connected_model_is_refused(media):
    from svdp.nodes.animate import SVDPAnimate

    with pytest.raises(UserError, match="connect model and adapter too"):
        animate(*media, vae=object())
    assert SVDPAnimate.validate_inputs(False, False, False, "") is not True
    assert SVDPAnimate.validate_inputs(True, False, False, "my clip") is True
    assert "separators" in SVDPAnimate.validate_inputs(True, False, False, "../elsewhere")


def test_cancel_stops_between_frames(media, monkeypatch):
    import comfy.model_management as mm
    from svdp.nodes import progress

    show = progress.StageBar.show

    def press_cancel(self, stage, share, preview=None):
        if stage == "track":  # while sampling, ComfyUI's own check would hide that ours is missing
            mm.interrupt_current_processing(True)
        show(self, stage, share, preview)

    monkeypatch.setattr(progress.StageBar, "show", press_cancel)
    try:
        with pytest.raises(mm.InterruptProcessingException):
            animate(*media, max_frames=2)
    finally:
        mm.interrupt_current_processing(False)


def test_an_image_batch_drives_as_its_video_does(media):
    portrait, driving = media
    frames = driving.get_components().images[:6]
    video, images, *_ = animate(portrait, frames, max_frames=0, fps=30.0)
    parts = video.get_components()
    assert parts.frame_rate == 30 and parts.audio is None
    theirs = animate(portrait, driving, max_frames=6)[1]
    assert images.shape == theirs.shape
    gap, step = float((images - theirs).abs().mean()), float((images[1:] - theirs[:-1]).abs().mean())
    assert gap < 0.3 * step  # two decoders' colours differ by less than two frames
    with pytest.raises(UserError, match="one picture"):
        animate(portrait, frames[:1], max_frames=0)


def test_several_portraits_are_refused_by_both_forms(media):
    from svdp.nodes.animate import SVDPAnimatePortrait

    portrait, driving = media
    two = torch.cat([portrait, portrait])
    with pytest.raises(UserError, match="one picture, got 2"):
        animate(two, driving)
    with pytest.raises(UserError, match="one picture, got 2"):
        SVDPAnimatePortrait.execute(
            two, driving, 0, "absolute", 1.0, 2, 4, False, True, True, True, "largest", "largest"
        )


def test_the_form_of_version_0_1_gives_what_it_gave(media):
    from svdp.nodes.animate import SVDPAnimatePortrait

    old = SVDPAnimatePortrait.execute(
        *media, 1, "absolute", 1.0, 2, 6, False, True, True, True, "largest", "largest"
    ).args
    new = animate(*media, max_frames=6)
    assert len(old) == 3 and old[2].splitlines()[0] == new[4].splitlines()[0]
    assert torch.equal(old[0].get_components().images, new[0].get_components().images)


def test_frames_that_do_not_fit_into_memory_stop_only_what_hangs_on_them(media, monkeypatch):
    from comfy_execution.graph_utils import ExecutionBlocker
    from svdp.nodes import animation

    monkeypatch.setattr(animation, "IMAGES_SHARE", 0.0)
    video, images, mask, _, _ = animate(*media, mode="draft", max_frames=2)
    assert isinstance(images, ExecutionBlocker) and isinstance(mask, ExecutionBlocker) and "video" in images.message
    assert len(video.get_components().images) == 2


def test_a_late_dial_makes_only_what_follows(media, monkeypatch):
    from svdp.nodes import animation

    made: list[str] = []

    def counted(name: str) -> None:
        was = getattr(animation, name)
        monkeypatch.setattr(animation, name, lambda *a, **k: (made.append(name), was(*a, **k))[1])

    for name in ("detect_face", "track_faces", "encode_source", "sample_video"):
        counted(name)
    first = animate(*media, max_frames=6)
    assert made == ["detect_face", "track_faces", "encode_source", "sample_video"]
    again = animate(*media, max_frames=6)
    assert made[4:] == [] and torch.equal(first[1], again[1]) and torch.equal(first[3], again[3])
    animate(*media, max_frames=6, paste_back=True)
    assert made[4:] == []
    other = animate(*media, max_frames=6, seed=2)
    assert made[4:] == ["sample_video"] and not torch.equal(first[1], other[1])
    animate(*media, max_frames=6, nose=False)
    assert made[5:] == ["encode_source", "sample_video"]
    animate(*media, max_frames=5, nose=False)
    assert made[7:] == ["track_faces", "encode_source", "sample_video"]


@pytest.mark.parametrize(
    ("preset", "steps", "branches"), [("adapter's own", 2, {"p"}), ("fast", 1, {"p"}), ("faithful", 40, set("usdp"))]
)
def test_a_preset_chooses_steps_and_branches(media, monkeypatch, preset, steps, branches):
    from svdp.model.backends.comfy_guider import SVDPGuider
    from svdp.nodes import animation

    seen: list[tuple[int, set[str]]] = []
    was = SVDPGuider.sample

    def counted(self, noise, latent, sampler, sigmas, *args, **kwargs):
        made = was(self, noise, latent, sampler, sigmas, *args, **kwargs)
        seen.append((len(sigmas) - 1, set(self.branches)))
        return made

    monkeypatch.setattr(SVDPGuider, "sample", counted)
    frames = animation.complete_adapter(None).config.segment_length + 1
    images = animate(*media, max_frames=frames, sampling={"sampling": preset})[1]
    assert len(images) == frames and len(seen) == 2
    assert [count for count, _ in seen] == [steps] * 2
    assert seen[1][1] == branches, "the second segment has history"


def test_a_stopped_run_goes_on_with_the_same_frames(media, monkeypatch, tmp_path):
    import comfy.model_management as mm
    import folder_paths
    from svdp.nodes import progress
    from svdp.nodes.kept import KEPT

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    whole = animate(*media)[1]
    KEPT.clear()
    show = progress.StageBar.show

    def press_cancel(self, stage, share, preview=None):
        if stage == "sample" and share > 0.5:
            mm.interrupt_current_processing(True)
        show(self, stage, share, preview)

    with monkeypatch.context() as pressed:
        pressed.setattr(progress.StageBar, "show", press_cancel)
        with pytest.raises(mm.InterruptProcessingException):
            animate(*media, keep_as="my clip")
    assert list((tmp_path / "svdp" / "my clip").glob("*.safetensors"))
    KEPT.clear()
    _, images, _, _, report = animate(*media, keep_as="my clip")
    assert torch.equal(images, whole) and "kept from an earlier run" in report


def test_work_ahead_keeps_order_raises_and_ends_its_thread():
    import threading

    from svdp.nodes.progress import ahead

    assert list(ahead(iter(range(50)))) == list(range(50))

    def broken():
        yield 1
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        list(ahead(broken()))
    for item in ahead(iter(range(50))):
        if item == 3:
            break
    assert not [t for t in threading.enumerate() if t.name == "svdp-ahead"]
