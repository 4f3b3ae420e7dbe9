# Sourced by the scripts beside it: virtual environments, and the wheel that goes into them.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# The installed package is what is tried: neither the caller's path nor the current folder may come before it.
# Nor may Python have been told not to keep what it compiles: each of thousands of processes would compile all it imports.
unset PYTHONPATH PYTHONDONTWRITEBYTECODE
export PYTHONSAFEPATH=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# runs_python COMMAND VERSION...: whether COMMAND starts a Python of one of the versions (a shim may be there and not run).
runs_python() {
  local version command=$1
  shift
  version=$("$command" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
  [[ " $* " == *" $version "* ]]
}

# find_python VERSION...: print the first interpreter found of one of the versions, by name or among pyenv's.
find_python() {
  local version command
  if runs_python python3 "$@"; then
    command -v python3
    return
  fi
  for version in "$@"; do
    for command in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
      if runs_python "$command" "$version"; then
        command -v "$command"
        return
      fi
    done
  done
  return 1
}

# default_python: print $PYTHON, or else an interpreter that crawler runs on.
default_python() {
  if [[ -n ${PYTHON:-} ]]; then
    echo "$PYTHON"
  elif ! find_python 3.11 3.12 3.13; then
    echo "crawler needs Python 3.11 or later; name one with PYTHON=/path/to/python3.11" >&2
    return 1
  fi
}

# make_environment FOLDER PYTHON GROUP...: a virtual environment with the dependency groups, made again when they change.
make_environment() {
  local folder=$1 python=$2 stamp group
  shift 2
  # What pip reads stands before the settings of tools.
  stamp=$("$python" -VV; echo "$python $*"; sed '/^\[tool\./,$d' pyproject.toml)
  if [[ ! -f $folder/made-from || $(<"$folder/made-from") != "$stamp" ]]; then
    echo "making $folder with $("$python" -V)" >&2
    "$python" -m venv --clear "$folder"
    # Groups are known to pip since 25.1.
    "$folder/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
    for group in "$@"; do
      # What is imported is compiled then: most of it never is.
      "$folder/bin/python" -m pip install --quiet --no-compile --group "$group"
    done
    echo "$stamp" >"$folder/made-from"
  fi
}

# contents: print what tells one state of the package from another.
contents() {
  find crawler pyproject.toml README.md LICENSE -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
}

# build_wheel ENVIRONMENT: build the package with the environment's tools where it has changed, print the wheel's path.
build_wheel() {
  local state
  state=$(contents)
  if [[ ! -f $1/wheel/built-from || $(<"$1/wheel/built-from") != "$state" ]]; then
    rm -rf "$1/wheel"
    "$1/bin/python" -m build --wheel --outdir "$1/wheel" . >"$1/build.log" 2>&1 || {
      cat "$1/build.log" >&2
      return 1
    }
    echo "$state" >"$1/wheel/built-from"
  fi
  echo "$1"/wheel/*.whl
}

# install_wheel ENVIRONMENT WHEEL: install the wheel with what it needs, unless this very one is there.
install_wheel() {
  local digest
  digest=$(sha256sum <"$2" | cut -d ' ' -f 1)
  # pip notes there what it installed from.
  if ! grep -qs "$digest" "$1"/lib/python*/site-packages/crawler-*.dist-info/direct_url.json; then
    "$1/bin/python" -m pip install --quiet "$2"
    # Again for one of the same version.
    "$1/bin/python" -m pip install --quiet --force-reinstall --no-deps "$2"
  fi
}
