"""The method in torch: knows neither ComfyUI nor diffusers (those live in `backends`)."""
