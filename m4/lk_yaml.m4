# LK_YAML: libyaml, for run files.
AC_DEFUN([LK_YAML], [
LK_LIBRARY([yaml], [YAML], [yaml-0.1], [-lyaml],
  [AC_LANG_PROGRAM([[#include <yaml.h>]], [[yaml_parser_t p; return yaml_parser_initialize(&p);]])],
  [Install libyaml (Debian: libyaml-dev), or give --with-yaml=DIR.],
  [yaml.h])
])
