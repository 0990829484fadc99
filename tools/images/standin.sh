#!/usr/bin/env bash
# Makes the public images that ours are built on, where no image registry can be reached:
#
#   tools/images/standin.sh PYTHON_TAG PROMETHEUS_TAG
#
# Each tag is pulled first; only what cannot be had is made, from Debian's packages and under the
# same tag, so that Dockerfile and Compose file need not know. A stand-in is for trying and testing:
# it has no publisher, no digest, and other patch versions (README.md says how its size compares).
# Needs root, Docker and mmdebstrap (Debian: apt install mmdebstrap).
set -euo pipefail

PULL_SECONDS=60

there() {
  docker image inspect "$1" >/dev/null 2>&1 || timeout "$PULL_SECONDS" docker pull --quiet "$1" 2>/dev/null
}

# As the published image: without documents and translations (as debian:bookworm-slim), python and pip
# in /usr/local/bin, and no bytecode of the standard library. Certificates are this machine's: a
# network without a registry often has a proxy that signs with its own. Perl comes with usrmerge, which
# the links in the place of /bin and so on make superfluous.
make_python() {
  local certificates=/etc/ssl/certs/ca-certificates.crt made
  made=$(mktemp -d)
  trap 'rm -r "$made"' RETURN
  mmdebstrap --quiet --variant=minbase --mode=root --aptopt='APT::Install-Recommends "false"' \
    --setup-hook='for each in bin sbin lib lib64; do mkdir -p "$1/usr/$each" && ln -s "usr/$each" "$1/$each"; done' \
    --include=usr-is-merged,ca-certificates,netbase,tzdata,python3,python3-pip-whl \
    --customize-hook='chroot "$1" apt-get purge --quiet=2 --yes perl perl-modules-5.36 libperl5.36 >/dev/null' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --customize-hook="cp $certificates \"\$1\"$certificates" \
    --customize-hook='chroot "$1" sh -c "PYTHONPATH=\$(echo /usr/share/python-wheels/pip-*.whl) python3 -m pip install --quiet --root-user-action=ignore --no-index --no-compile --find-links /usr/share/python-wheels --break-system-packages --ignore-installed pip"' \
    --customize-hook='rm "$1"/usr/lib/python3.11/EXTERNALLY-MANAGED && ln -s /usr/bin/python3 "$1"/usr/local/bin/python && ln -s /usr/bin/python3 "$1"/usr/local/bin/python3' \
    --customize-hook="printf '[global]\ncert = $certificates\n' > \"\$1\"/etc/pip.conf" \
    --customize-hook='find "$1"/usr/lib/python3* "$1"/usr/local/lib -name __pycache__ -prune -exec rm -r {} +' \
    bookworm "$made/root.tar"
  docker import --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin' \
    --change 'CMD ["python3"]' "$made/root.tar" "$1" >/dev/null
}

# Only the program: Debian's package wants fonts and pages of 300 MB.
make_prometheus() {
  docker build --quiet --network host --tag "$2" - >/dev/null <<DOCKERFILE
FROM $1
RUN cd /tmp && apt-get update --quiet && apt-get download prometheus && dpkg-deb --extract prometheus_*.deb x \
 && mv x/usr/bin/prometheus /usr/bin/ && rm -r /tmp/* /var/lib/apt/lists/*
USER nobody
ENTRYPOINT ["/usr/bin/prometheus"]
DOCKERFILE
}

if ! there "$1"; then
  make_python "$1"
  echo "$1: a stand-in made of Debian's packages"
fi
if ! there "$2"; then
  make_prometheus "$1" "$2"
  echo "$2: a stand-in made of Debian's packages"
fi
