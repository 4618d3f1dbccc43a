"""Nodes on plain IMAGE and MASK: face track, crop, region masks, paste-back. They need no model."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import io, ui

from .types import CATEGORY, FACES, AdapterType, CropType, FaceTrackType, LandmarksType, MotionType, track_input

FACES_OR_NUMBER = {**FACES, "number": ""}


class SVDPFaceTrack(io.ComfyNode):
    """Follow one face."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPFaceTrack",
            display_name="Face Track (SVDP)",
            category=CATEGORY,
            description="Follows one face through the images: 478 points, expression and head pose of every image. "
            "Images in which it is not seen are listed on the node and held from their neighbours; fatal only if no "
            "image shows it.",
            search_aliases=["face landmarks", "face mesh", "track face", "mediapipe", "face detection", "svdp"],
            inputs=[
                io.Image.Input("images", tooltip="A portrait, or the frames of a clip in order, all of one size."),
                LandmarksType.Input(
                    "face_landmarks",
                    optional=True,
                    tooltip="Landmarks that ComfyUI's own detector found in the same images: used in place of the "
                    "built-in detector, which then need not be installed.",
                ),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Frames per second of the clip; the smoothing depends on it. Connect Get Video Components.",
                ),
                io.Combo.Input(
                    "face",
                    options=list(FACES_OR_NUMBER),
                    default="largest",
                    tooltip="Which face to follow where there are several; number: the one given below.",
                ),
                io.Int.Input(
                    "face_number",
                    default=0,
                    min=0,
                    max=15,
                    advanced=True,
                    tooltip="Counted from the left, from 0, among the faces seen together. Only with face = number.",
                ),
                io.Float.Input(
                    "smoothing",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Takes jitter out of the points: 1 is usual, higher is calmer but softens quick motion, "
                    "0 leaves them as they were found.",
                ),
                io.Int.Input(
                    "preview_images",
                    default=16,
                    min=1,
                    max=100000,
                    advanced=True,
                    tooltip="At most so many images, evenly spread, are drawn for the preview; more take more memory.",
                ),
            ],
            outputs=[
                FaceTrackType.Output("track", display_name="track", tooltip="The face over all images."),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="Images with points and regions drawn; a red frame: interpolated.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Where the face was not seen, how far head and mouth move.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, fps, face, face_number, smoothing, preview_images, face_landmarks=None) -> io.NodeOutput:
        from ..signals.track import describe_track
        from . import faces

        track = faces.find_track(images, face_landmarks, fps, FACES_OR_NUMBER[face] or str(face_number), smoothing)
        report = "\n".join([describe_track(track), *faces.found_by(face_landmarks)])
        drawn = faces.draw_tracks(images, track, preview_images)
        return io.NodeOutput(track, drawn, report, ui=ui.PreviewText(report))


class SVDPFaceCrop(io.ComfyNode):
    """Cut a square around the face."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPFaceCrop",
            display_name="Face Crop (SVDP)",
            category=CATEGORY,
            description="Cuts the square that the model works on. Source and driver are cut by one rule, so that faces "
            "are alike in size and place; the scale is locked over the clip, so nothing pumps.",
            search_aliases=["crop face", "face bounding box", "align face", "portrait crop", "svdp"],
            inputs=[
                io.Image.Input("images", tooltip="The images that were tracked, or that the mask belongs to."),
                track_input("track", "Where the face is."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Covers the face, drawn or from a segmentation node: used in place of the track, for "
                    "drawn or animal faces that no detector finds. One for all images or one for each.",
                ),
                FaceTrackType.Input(
                    "source_track",
                    optional=True,
                    tooltip="For relative motion: the track that the Face Crop of the source gives.",
                ),
                AdapterType.Input(
                    "adapter",
                    optional=True,
                    tooltip="Knows the size and scale that it was trained with: then leave both 0.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=2048,
                    step=16,
                    tooltip="Side of the square in pixels. 0: what the adapter was trained at; without an adapter 512.",
                ),
                io.Combo.Input(
                    "motion",
                    options=["absolute", "relative"],
                    default="absolute",
                    tooltip="absolute: the driver's own pose. relative: counted from the source's pose, so that the "
                    "result does not jump in the first frame; needs source_track.",
                ),
                io.Int.Input(
                    "reference",
                    default=0,
                    min=0,
                    max=1000000,
                    advanced=True,
                    tooltip="For relative motion: the image in which the driver's pose stands for the source's.",
                ),
                io.Float.Input(
                    "scale",
                    default=0.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Side of the square over the size of the face, about 1.2 to 2.5. 0: what the adapter was "
                    "trained with; without an adapter 1.9.",
                ),
                io.Float.Input(
                    "shift_up",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Moves the square up by this share of the face's size.",
                ),
                io.Combo.Input(
                    "position",
                    options=["auto", "locked", "follow"],
                    default="auto",
                    advanced=True,
                    tooltip="locked: the square stays. follow: it goes with the head. auto: locked unless the head "
                    "strays.",
                ),
            ],
            outputs=[
                io.Image.Output("crops", display_name="crops", tooltip="The square of every image."),
                CropType.Output("crop", display_name="crop", tooltip="Where the squares lie, for Paste Back."),
                FaceTrackType.Output(
                    "crop_track", display_name="crop track", tooltip="The track in the pixels of the squares."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images, size, motion, reference, scale, shift_up, position,
        track=None, mask=None, source_track=None, adapter=None,
    ) -> io.NodeOutput:  # fmt: skip
        from . import faces

        track = faces.as_track(track, images)
        cfg = faces.crop_rule(size, scale, shift_up, position, adapter)
        crop = faces.plan_images_crop(images, track, mask, cfg)
        crop = faces.move_crop(crop, track, motion, source_track, reference)
        cut = faces.crop_images(images, crop, None if mask is not None else track)
        return io.NodeOutput(cut, crop, faces.cropped_track(track, crop))


class SVDPRegionMasks(io.ComfyNode):
    """Black out all but eyes, nose and mouth."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPRegionMasks",
            display_name="Region Masks (SVDP)",
            category=CATEGORY,
            description="Shows of the driver what the model may see: the pixels of eyes, nose and mouth, all else "
            "black. Switch regions off, or give your own masks, to say what drives; two drivers can be combined with "
            "Image Composite Masked.",
            search_aliases=["face parts", "eyes mask", "mouth mask", "lips mask", "face segmentation", "svdp"],
            inputs=[
                io.Image.Input("images", tooltip="The driver's images, usually from its Face Crop."),
                track_input("track", "The face in these images: the crop track of Face Crop."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Drawn or segmented: what is shown, for every region that is switched on, in place of the "
                    "track. One for all images or one for each.",
                ),
                io.Mask.Input("eyes_mask", optional=True, tooltip="In place of the track's eyes alone."),
                io.Mask.Input("nose_mask", optional=True, tooltip="In place of the track's nose alone."),
                io.Mask.Input("mouth_mask", optional=True, tooltip="In place of the track's mouth alone."),
                io.Boolean.Input("eyes", default=True, tooltip="The eyes drive: gaze and blinks."),
                io.Boolean.Input("nose", default=True, tooltip="The nose drives: it carries most of the head's pose."),
                io.Boolean.Input("mouth", default=True, tooltip="The mouth drives: lips, teeth, speech."),
                io.Boolean.Input("brows", default=False, tooltip="The region of the eyes takes in the brows."),
                io.Float.Input(
                    "dilation",
                    default=0.16,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How generously the regions are cut, as a share of the distance between the eyes. More "
                    "follows better, and lets more of the driver's face through.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.0,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="Soft edge, as a share of the distance between the eyes. The model was trained with 0.",
                ),
            ],
            outputs=[
                io.Image.Output("masked", display_name="masked", tooltip="The driver with all but the regions black."),
                io.Mask.Output("all_regions", display_name="mask", tooltip="All regions together."),
                io.Mask.Output("eyes_out", display_name="eyes", tooltip="The eyes; empty if switched off."),
                io.Mask.Output("nose_out", display_name="nose", tooltip="The nose; empty if switched off."),
                io.Mask.Output("mouth_out", display_name="mouth", tooltip="The mouth; empty if switched off."),
            ],
        )

    @classmethod
    def execute(
        cls, images, eyes, nose, mouth, brows, dilation, feather,
        track=None, mask=None, eyes_mask=None, nose_mask=None, mouth_mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..signals.regions import RegionConfig
        from . import faces

        regions = tuple(name for name, on in (("eyes", eyes), ("nose", nose), ("mouth", mouth)) if on)
        cfg = RegionConfig(regions=regions, brows=brows, dilation=dilation, feather=feather)
        own = {"eyes": eyes_mask, "nose": nose_mask, "mouth": mouth_mask}
        drawn = {region: mask if given is None else given for region, given in own.items()}
        masked, union, masks = faces.mask_regions(images, faces.as_track(track, images), cfg, drawn)
        return io.NodeOutput(masked, union, masks[:, 0], masks[:, 1], masks[:, 2])


class SVDPPosePortrait(io.ComfyNode):
    """Lay the portrait's 3D head over the driver's face."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPPosePortrait",
            display_name="Pose Portrait (SVDP)",
            category=CATEGORY,
            description="Wraps the portrait around a 3D head and moves it as the driver does: a draft, sharp and "
            "without a model, and the posed source that adapters take. Paste Back puts it into the portrait.",
            search_aliases=["3d head", "pose face", "retarget face", "draft animation", "face puppet", "svdp"],
            inputs=[
                io.Image.Input("portrait", tooltip="The whole portrait: one picture with a face."),
                track_input("track", "The face in the portrait. Without it the face is looked for here."),
                FaceTrackType.Input(
                    "driver_track",
                    optional=True,
                    tooltip="What the driver does: the crop track of the driver's Face Crop.",
                ),
                io.Image.Input(
                    "driver",
                    optional=True,
                    tooltip="In place of driver_track: the driver's whole images, which are tracked here.",
                ),
                CropType.Input("crop", optional=True, tooltip="With driver: the crop of the driver's Face Crop."),
                AdapterType.Input(
                    "adapter", optional=True, tooltip="Knows the scale that it was trained with: then leave scale 0."
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=2048,
                    step=16,
                    tooltip="Side of the pictures in pixels. 0: as large as the driver's squares, as the model needs. "
                    "Larger: a sharper draft.",
                ),
                io.Combo.Input(
                    "motion",
                    options=["absolute", "relative"],
                    default="absolute",
                    tooltip="absolute: the driver's own pose and expression. relative: their change since the "
                    "reference image, added to the portrait's own. Choose as in the driver's Face Crop.",
                ),
                io.Int.Input(
                    "reference",
                    default=0,
                    min=0,
                    max=1000000,
                    advanced=True,
                    tooltip="For relative motion: the image in which the driver's pose stands for the portrait's.",
                ),
                io.Float.Input(
                    "scale",
                    default=0.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    advanced=True,
                    tooltip="The scale of Face Crop: side of the square over the size of the face. 0: the adapter's; "
                    "without an adapter 1.9.",
                ),
                MotionType.Input(
                    "driver_motion",
                    optional=True,
                    tooltip="In place of driver_track: what the portrait is to do, from Edit Motion and its kin. Then "
                    "size 0 is the portrait's own.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "posed",
                    display_name="posed",
                    tooltip="The portrait in every pose, for Encode Signals or Paste Back.",
                ),
                io.Mask.Output(
                    "known", display_name="known", tooltip="What of it the portrait shows; the rest is made up."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, portrait, size, motion, reference, scale,
        track=None, driver_track=None, driver=None, crop=None, adapter=None, driver_motion=None,
    ) -> io.NodeOutput:  # fmt: skip
        from . import posing

        if driver_motion is not None:
            side, wide = size or posing.square_side(driver_track), posing.crop_scale(scale, adapter)
            return io.NodeOutput(*posing.perform_motion(portrait, track, driver_motion, side, wide, motion, reference))
        moved = posing.find_driver(driver_track, driver, crop)
        wide = posing.crop_scale(scale, adapter)
        return io.NodeOutput(*posing.pose_portrait(portrait, track, moved, size, wide, motion, reference))


class SVDPPasteBack(io.ComfyNode):
    """Put animated crops back into the full picture."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPPasteBack",
            display_name="Paste Back (SVDP)",
            category=CATEGORY,
            description="Puts the animated squares back where Face Crop cut them out, with a soft edge and matched "
            "colours. They may have been enlarged by an upscaler in between.",
            search_aliases=["uncrop", "stitch face", "composite face", "restore crop", "svdp"],
            inputs=[
                io.Image.Input("images", tooltip="The animated squares, of any size."),
                io.Image.Input("full", tooltip="The full-size source: one picture, or one for each image."),
                CropType.Input("crop", tooltip="Where the squares belong: from the Face Crop of the source."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What of the squares is seen, in their pixels: for example only the mouth.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.1,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Width of the soft edge as a share of the square's side; 0 is a hard edge.",
                ),
                io.Boolean.Input(
                    "match_colours",
                    default=True,
                    tooltip="Gives the square the mean and contrast that the picture has along the square's edge.",
                ),
            ],
            outputs=[
                io.Image.Output("pasted", display_name="images", tooltip="The full picture, animated."),
                io.Mask.Output("used_mask", display_name="mask", tooltip="Where the square is seen."),
            ],
        )

    @classmethod
    def execute(cls, images, full, crop, feather, match_colours, mask=None) -> io.NodeOutput:
        from . import faces

        return io.NodeOutput(*faces.paste_images(images, full, crop, mask, feather=feather, colour_match=match_colours))


NODES = [SVDPFaceTrack, SVDPFaceCrop, SVDPRegionMasks, SVDPPasteBack, SVDPPosePortrait]
