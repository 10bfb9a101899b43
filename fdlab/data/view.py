"""The settings of a random view, and those that several recipes share. No torch: recipes are read without it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class View(BaseModel):
    """Settings of one random view; the default changes nothing.

    Lengths are in pixels of the model's input, colours in the [0, 1] of raw images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: tuple[float, float] | None = Field(default=None, description="share of the area that is kept, min and max")
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="width / height of the crop, min and max")
    flip: float = Field(default=0.0, ge=0, le=1, description="probability of a mirror image")
    rotate: float = Field(default=0.0, ge=0, le=180, description="largest turn either way, degrees")
    shift: float = Field(default=0.0, ge=0, description="largest shift either way, pixels")
    brightness: float = Field(default=0.0, ge=0, le=1, description="factor within 1 - b and 1 + b")
    contrast: float = Field(default=0.0, ge=0, le=1, description="factor about the image's mean grey")
    saturation: float = Field(default=0.0, ge=0, le=1, description="factor about each pixel's grey")
    grey: float = Field(default=0.0, ge=0, le=1, description="probability of losing the colour")
    noise: float = Field(default=0.0, ge=0, description="standard deviation of Gaussian pixel noise")
    randaugment: int = Field(default=0, ge=0, description="operations of RandAugment; 0: none")
    magnitude: float = Field(default=9.0, ge=0, le=10, description="of RandAugment")
    magnitude_sd: float = Field(default=0.5, ge=0, description="of RandAugment")
    interpolation: Literal["bilinear", "bicubic"] = Field(default="bilinear", description="of crops from larger images")

    @property
    def recolours(self) -> bool:
        """Whether colours change, other than by RandAugment."""
        return bool(self.brightness or self.contrast or self.saturation or self.grey or self.noise)

    @field_validator("crop", "ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1]:
            raise ValueError("needs 0 < min <= max")
        return value

    @field_validator("crop")
    @classmethod
    def _share(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[1] > 1:
            raise ValueError("a share of the area is at most 1")
        return value


NONE = View()
LIGHT = View(crop=(0.67, 1.0))  # digits: a mirror image is another character, so no flip
CONTRASTIVE = View(crop=(0.5, 1.0), rotate=20, brightness=0.4, contrast=0.4, noise=0.1)
PAPER_FD = View(crop=(0.67, 1.0), flip=0.5)
