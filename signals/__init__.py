"""Face tracking, region masks, crops and paste-back: everything that turns pictures into motion signals."""
