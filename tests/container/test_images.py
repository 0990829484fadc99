"""What an image says of itself: its packages, and what it lacks. Needs Docker and the images."""

import json
import subprocess

import pytest

IMAGES = ("telemill/transform:local", "telemill/transform:kcl")
SHUT_IN = ("--rm", "--network", "none", "--read-only")


def run(image: str, *options: str, command: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Exit status, output and errors of a container."""
    whole = ("docker", "run", *SHUT_IN, *options, image, *command)
    ended = subprocess.run(whole, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def told(image: str, program: str, *arguments: str) -> str:
    """What a program of the image prints."""
    status, output, errors = run(image, "--entrypoint", program, command=arguments)
    assert status == 0, errors
    return output


@pytest.mark.parametrize(
    ("image", "setting", "says"),
    [
        ("telemill/transform:kcl", "KINESIS_KCL_JARS=/nowhere", "KINESIS_KCL_JARS: got /nowhere"),
        ("telemill/transform:kcl", "KINESIS_KCL_VERSION=3", "is missing"),
        ("telemill/transform:local", "KINESIS_COORDINATOR=kcl", "no java on the PATH"),
    ],
)
def test_an_image_without_its_jars_says_so(image: str, setting: str, says: str) -> None:
    """Status 2 and one line at once, before AWS is asked for anything."""
    status, output, errors = run(image, "--env", setting)
    assert status == 2, output
    [line] = errors.splitlines()
    assert says in line


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_lists_every_package_of_its_operating_system(image: str) -> None:
    """sbom-os.cdx.json and dpkg name the same packages in the same versions."""
    listed = json.loads(told(image, "cat", "/app/sbom-os.cdx.json"))
    assert listed["bomFormat"] == "CycloneDX"
    named = {
        (each["name"], each["version"])
        for each in listed["components"]
        if "arch=source" not in each["purl"]
    }
    lines = told(image, "dpkg-query", "--show").splitlines()
    held = {(line.partition("\t")[0].partition(":")[0], line.split("\t")[1]) for line in lines}
    assert named == held


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_lists_every_python_package(image: str) -> None:
    """sbom.cdx.json and what is installed name the same packages."""
    listed = json.loads(told(image, "cat", "/app/sbom.cdx.json"))
    named = {each["name"].lower().replace("_", "-") for each in listed["components"]}
    seen = "from importlib.metadata import distributions as d; print(*{x.name for x in d()})"
    held = {
        name.lower().replace("_", "-") for name in told(image, "python", "-P", "-c", seen).split()
    }
    own = {name for name in held if name.startswith("telemill")}
    assert held - own <= named
