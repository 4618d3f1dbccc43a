"""Track, crop, mask and paste in real ComfyUI, on the bundled portrait and clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from svdp.errors import UserError

FRAMES = 6


@pytest.fixture(scope="module")
def media(comfy_on_path) -> tuple[torch.Tensor, Any]:
    """The bundled portrait, and the first frames of the clip."""
    from svdp.nodes.examples import SVDPExampleMedia

    portrait, video = SVDPExampleMedia.execute("fair hair", "woman talking").args
    return portrait, video.get_components().images[:FRAMES]


def track(images: torch.Tensor, **changed: Any) -> tuple[Any, ...]:
    from svdp.nodes.signals import SVDPFaceTrack

    settings = {"fps": 30.0, "face": "largest", "face_number": 0, "smoothing": 1.0, "preview_images": 2}
    return SVDPFaceTrack.execute(images, **{**settings, **changed}).args


def crop(images: torch.Tensor, **changed: Any) -> tuple[Any, ...]:
    from svdp.nodes.signals import SVDPFaceCrop

    settings = {"size": 128, "motion": "absolute", "reference": 0, "scale": 1.9, "shift_up": 0.0, "position": "auto"}
    return SVDPFaceCrop.execute(images, **{**settings, **changed}).args


def regions(images: torch.Tensor, **changed: Any) -> tuple[Any, ...]:
    from svdp.nodes.signals import SVDPRegionMasks

    settings = {"eyes": True, "nose": True, "mouth": True, "brows": False, "dilation": 0.16, "feather": 0.0}
    return SVDPRegionMasks.execute(images, **{**settings, **changed}).args


def paste(images: torch.Tensor, full: torch.Tensor, place: Any, **changed: Any) -> tuple[Any, ...]:
    from svdp.nodes.signals import SVDPPasteBack

    return SVDPPasteBack.execute(images, full, place, **{"feather": 0.1, "match_colours": False, **changed}).args


@pytest.fixture(scope="module")
def driver(media) -> tuple[Any, ...]:
    """Crops, place and track of the driver."""
    found, _, _ = track(media[1])
    return crop(media[1], track=found)


def test_track_reports_and_draws(media):
    found, preview, report = track(media[1])
    assert found.num_frames == FRAMES and preview.shape == (2, *media[1].shape[1:])
    assert 0 < (preview[0] - media[1][0]).abs().mean() < 0.2
    assert f"{FRAMES} frames of 320x320" in report and "faces found by MediaPipe" in report


def test_crop_shows_the_tracked_face_in_the_middle(driver):
    crops, place, cropped = driver
    assert crops.shape == (FRAMES, 128, 128, 3) and crops.dtype == torch.float32
    assert 0 <= float(crops.min()) and float(crops.max()) <= 1
    assert len(place.affines) == FRAMES
    assert np.abs(cropped.landmarks[:, :, :2].mean((0, 1)) - 64).max() < 20


def test_relative_motion_starts_in_the_sources_pose(media, driver):
    source_track = track(media[0])[0]
    _, _, placed = crop(media[0], track=source_track)
    found = track(media[1])[0]
    _, _, moved = crop(media[1], track=found, motion="relative", source_track=placed)
    corners = [33, 263]
    distances = [
        np.abs(t.landmarks[0, corners, :2] - placed.landmarks[0, corners, :2]).mean() for t in (moved, driver[2])
    ]
    assert distances[0] < 2 and distances[0] < distances[1]


def test_regions_show_their_pixels_and_nothing_else(driver):
    crops, _, cropped = driver
    masked, union, eyes, nose, mouth = regions(crops, track=cropped)
    np.testing.assert_allclose(masked, crops * union[..., None], atol=1 / 254)
    np.testing.assert_allclose(union, torch.stack([eyes, nose, mouth]).amax(0))
    centre = [float((m[0].sum(1) * torch.arange(128)).sum() / m[0].sum()) for m in (eyes, nose, mouth)]
    assert centre == sorted(centre) and 0.02 < float(union.mean()) < 0.35
    only_mouth = regions(crops, track=cropped, eyes=False, nose=False)
    assert float(only_mouth[2].max()) == 0 and torch.equal(only_mouth[1], mouth)


def test_a_drawn_mask_stands_in_for_track_and_detector(driver):
    crops, _, cropped = driver
    drawn = torch.zeros(1, 64, 64)
    drawn[:, 40:50, 20:44] = 1
    _, union, eyes, nose, mouth = regions(crops, mask=drawn, eyes=False, nose=False)
    assert union.shape == (FRAMES, 128, 128) and float(mouth[3, 90, 64]) == 1 and float(eyes.max() + nose.max()) == 0
    _, _, own, _, other = regions(crops, track=cropped, eyes_mask=drawn)
    assert float(own[0, 90, 64]) == 1 and torch.equal(other, regions(crops, track=cropped)[4])
    crops_by_mask, place, nothing = crop(crops, mask=drawn, size=64)
    assert crops_by_mask.shape == (FRAMES, 64, 64, 3) and nothing is None
    assert np.allclose(place.affines, place.affines[0])


def test_paste_back_of_untouched_crops_changes_little_even_when_enlarged(media):
    found = track(media[0])[0]
    crops, place, _ = crop(media[0], track=found, size=256)
    for images in (crops, torch.nn.functional.interpolate(crops.movedim(3, 1), scale_factor=2).movedim(1, 3)):
        pasted, mask = paste(images.expand(3, -1, -1, -1), media[0], place)
        assert pasted.shape == (3, *media[0].shape[1:]) and 0 < float(mask.mean()) < 1
        assert float((pasted[2] - media[0][0]).abs().mean()) < 0.012
    left = torch.zeros(1, 16, 16)
    left[:, :, :8] = 1
    pasted, mask = paste(torch.zeros(1, 64, 64, 3), media[0], place, mask=left, feather=0.0)
    whole = paste(torch.zeros(1, 64, 64, 3), media[0], place, feather=0.0)[1]
    assert float(mask.sum()) == pytest.approx(float(whole.sum()) / 2, rel=0.05)


def test_landmarks_of_comfyui_fit_wherever_a_track_does(media, driver):
    crops, _, cropped = driver
    faces = [
        [{"landmarks_xy": points[:, :2], "landmarks_3d": points, "transformation_matrix": matrix}]
        for points, matrix in zip(cropped.landmarks, cropped.matrices, strict=True)
    ]
    landmarks = {"frames": faces, "image_size": (128, 128), "connection_sets": {}}
    again = track(crops, face_landmarks=landmarks, smoothing=0.0)[0]
    np.testing.assert_allclose(again.landmarks, cropped.landmarks, atol=1e-3)
    by_landmarks, by_track = regions(crops, track=landmarks)[1], regions(crops, track=cropped)[1]
    assert float((by_landmarks - by_track).abs().mean()) < 0.02  # smoothed once more


def test_a_posed_portrait_is_sharp_moves_and_tells_what_is_known(media, driver):
    from svdp.nodes.signals import SVDPPosePortrait

    portrait = media[0]
    posed, known = SVDPPosePortrait.execute(portrait, 0, "absolute", 0, 0.0, driver_track=driver[2]).args
    count, side = len(driver[0]), driver[0].shape[1]
    assert posed.shape == (count, side, side, 3) and known.shape == (count, side, side)
    assert 0.2 < float(known.mean()) < 1 and float((posed[0] - posed[-1]).abs().mean()) > 0.001
    large, _ = SVDPPosePortrait.execute(portrait, 192, "relative", 0, 1.4, driver_track=driver[2]).args
    assert large.shape == (count, 192, 192, 3)
    with pytest.raises(UserError, match="connect driver_track"):
        SVDPPosePortrait.execute(portrait, 0, "absolute", 0, 0.0)
    with pytest.raises(UserError, match="reference frame 900"):
        SVDPPosePortrait.execute(portrait, 0, "relative", 900, 0.0, driver_track=driver[2])


def test_what_does_not_fit_is_said_in_words(media, driver):
    portrait, clip = media
    crops, place, cropped = driver
    for call, words in (
        (lambda: regions(crops), "nothing says where the eyes, nose, mouth are"),
        (lambda: regions(clip, track=cropped), "the track is of 128x128 pixels, the images have 320x320"),
        (lambda: regions(crops[:3], track=cropped), "3 images but a track of 6"),
        (lambda: crop(clip), "connect a face track, or a mask"),
        (lambda: crop(clip, track=track(clip)[0], motion="relative"), "relative motion needs"),
        (lambda: paste(crops[:4], portrait, place), "4 images but 6 places of the crop"),
        (lambda: paste(clip[:1, :100], portrait, place), "square"),
        (lambda: track(torch.zeros(2, 64, 64, 3)), "no face found in any of 2 frames"),
        (lambda: track(portrait, face="number", face_number=3), "face number 3 asked for"),
    ):
        with pytest.raises(UserError, match=words):
            call()


def test_cancel_stops_between_frames(media, monkeypatch):
    import comfy.model_management as mm

    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        track(media[1])
    assert not mm.processing_interrupted()  # raising takes the wish back


def test_example_media_have_sound_and_all_frames(comfy_on_path):
    from svdp.nodes.examples import CLIPS, PORTRAITS, SVDPExampleMedia

    for portrait in PORTRAITS:
        picture = SVDPExampleMedia.execute(portrait, "woman talking").args[0]
        assert picture.ndim == 4 and picture.shape[3] == 3 and len(picture) == 1
    for clip in CLIPS:
        parts = SVDPExampleMedia.execute("fair hair", clip).args[1].get_components()
        assert len(parts.images) == 64 and parts.audio is not None
