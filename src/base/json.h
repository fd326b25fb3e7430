/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_JSON_H
#define SLC_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * jansson with our errors. `where` is the file (or "config.json of ...") named in
 * messages. Getters: a missing or null key leaves *out as it was and returns 0 (set the
 * default before), a value of the wrong type is an SLC_EXIT_INPUT error. The `need`
 * variants make a missing key an error too.
 */

/* Parse a whole file of at most `max` bytes, duplicate keys refused; caller json_decref's. */
json_t *slc_json_load(const char *path, size_t max, struct slc_err *e);
json_t *slc_json_parse(const char *text, size_t len, const char *where, struct slc_err *e);

int slc_json_get_int(const json_t *o, const char *key, int64_t *out, const char *where,
                     struct slc_err *e);
int slc_json_need_int(const json_t *o, const char *key, int64_t *out, const char *where,
                      struct slc_err *e);
int slc_json_get_real(const json_t *o, const char *key, double *out, const char *where,
                      struct slc_err *e);
int slc_json_need_real(const json_t *o, const char *key, double *out, const char *where,
                       struct slc_err *e);
int slc_json_get_bool(const json_t *o, const char *key, bool *out, const char *where,
                      struct slc_err *e);
/* Borrowed string, valid while o lives. */
int slc_json_get_str(const json_t *o, const char *key, const char **out, const char *where,
                     struct slc_err *e);
int slc_json_need_str(const json_t *o, const char *key, const char **out, const char *where,
                      struct slc_err *e);

#endif
