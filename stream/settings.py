"""What every section of a settings file is: frozen, strict, and checked when it is read."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the settings file. Unknown keys are refused; the reader of a section declares it beside itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
