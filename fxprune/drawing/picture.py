"""A figure that notebooks show by itself, whether pyplot was imported or not."""

from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fxprune.drawing.style import styled


class Picture(Figure):
    """A matplotlib Figure that is drawn by Agg, under no window system's or pyplot's hand."""

    def _repr_png_(self) -> bytes:
        """For notebooks."""
        file = BytesIO()
        with styled():
            self.savefig(file, format="png")
        return file.getvalue()


def new_picture(width: float, height: float) -> Picture:
    """An empty one, of so many inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
