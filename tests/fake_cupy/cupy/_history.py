"""What the host asked of the devices."""


class History:
    """Kernels started, data moved, and times that the host waited."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.kernels: list[tuple[str, int, str]] = []
        """The name of each, its device and its stream."""
        self.compiled: list[tuple[str, tuple[str, ...]]] = []
        """The source of each kernel compiled, and the options."""
        self.launches: list[tuple[str, int, int]] = []
        """The name of each of our kernels, its blocks and their threads."""
        self.uploads: list[tuple[int, str]] = []
        """The device and the stream of each."""
        self.downloads = 0
        self.waits: list[str] = []

    def wait(self, why: str) -> None:
        self.waits.append(why)


history = History()
