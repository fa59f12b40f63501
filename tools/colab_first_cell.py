# On Colab this installs the course package, and leaves the torch and numpy that are there. Elsewhere it does nothing.
import importlib.util
import os
import subprocess
import sys
import tempfile
from importlib import metadata

if importlib.util.find_spec("rlcourse") is None and (
    "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules
):
    frozen = []
    for package in ("torch", "torchvision", "torchaudio", "numpy", "ipykernel", "ipywidgets"):
        try:
            frozen.append(f"{package}=={metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as constraints:
        constraints.write("\n".join(frozen))
    source = "rlcourse @ git+https://github.com/rlcourse/rlcourse"
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "-c", constraints.name, source])
    importlib.invalidate_caches()
