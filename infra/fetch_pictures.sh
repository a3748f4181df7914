#!/usr/bin/env bash
# Fetch the test pictures of imaging projects, from their Debian source packages, into FOLDER, and the programs that
# show them: `infra/fetch_pictures.sh FOLDER`. The tests of codecs compare with these where FOLDER is there.
set -euo pipefail

folder=${1:?usage: infra/fetch_pictures.sh FOLDER}
packages=(libjpeg-turbo pillow vips imagemagick graphicsmagick libheif tiff exiv2 libwebp libpng1.6)
viewers=(imagemagick graphicsmagick libvips-tools)

command -v apt-get >/dev/null || { echo "apt-get is missing: the pictures come from Debian's source packages" >&2; exit 1; }
if ! command -v gm >/dev/null || ! command -v vipsthumbnail >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "run as root, or install ${viewers[*]}" >&2; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${viewers[@]}"
fi

# Lists of source packages of its own, so that the machine's are left as they are.
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/files"
release=$(sed -n "s/^VERSION_CODENAME=//p" /etc/os-release)
sources=$(find /etc/apt -maxdepth 2 \( -name '*.list' -o -name '*.sources' \) -exec cat {} +)
mirror=$(sed -nE 's,^(URIs:|deb) +(https?://[^ ]+/debian/?)( .*)?$,\2,p' <<<"$sources" | sed -n 1p)
echo "deb-src ${mirror:?no Debian mirror in /etc/apt} $release main" >"$apt/sources.list"
options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update -qq
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
for package in "${packages[@]}"; do
    [ -d "$folder/$package" ] && continue
    (cd "$apt/files" && apt-get "${options[@]}" source --download-only -qq "$package")
    mkdir -p "$folder/$package.part"
    archive=$(find "$apt/files" -name "${package}_*.orig.tar.*" ! -name '*.asc' | sort | sed -n 1p)
    tar -xf "$archive" -C "$folder/$package.part" --strip-components=1
    mv "$folder/$package.part" "$folder/$package"
done
echo "pictures of ${#packages[@]} projects lie in $folder"
