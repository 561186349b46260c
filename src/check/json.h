/* Private to the files of a check that write JSON. */
#ifndef LK_CHECK_JSON_H
#define LK_CHECK_JSON_H

#include <jansson.h>

/* A text of any bytes: names come from anywhere, and are cut; JSON is UTF-8. json.c */
json_t *lk_check_json(const char *text);

#endif
