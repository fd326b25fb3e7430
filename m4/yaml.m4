# SPDX-License-Identifier: Apache-2.0
# libyaml: the run file.
AC_DEFUN([SLC_CHECK_YAML], [
SLC_LIB([YAML], [yaml], [yaml-0.1], [yaml.h], [yaml_parser_parse],
    [-lyaml], [libyaml-dev], [libyaml-devel], [])
SLC_NEED([yaml], [libyaml-dev], [libyaml-devel])
])
