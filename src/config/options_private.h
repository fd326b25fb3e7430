/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CONFIG_OPTIONS_PRIVATE_H
#define SLC_CONFIG_OPTIONS_PRIVATE_H

#include "config/options.h"

/* Room for per-option flags; the table asserts that it fits. */
#define SLC_OPTION_MAX 96

/* The entry of section.key, NULL if there is none. */
const struct slc_option *slc_option_find(const char *section, const char *key);
bool slc_option_has_section(const char *section);
/* One line that names what may have been meant, or the known sections or keys. */
void slc_option_advice(const char *section, const char *key, char *text, size_t len);

/* "an integer" and so on, for messages and the man page. */
const char *slc_option_type_name(enum slc_option_type type);
/* Digits that show the bounds of a number as they stand in the table. */
static inline int slc_option_digits(const struct slc_option *opt)
{
    return opt->type == SLC_OPT_INT ? 16 : 15;
}

/*
 * Set an option from text. quoted: the text stood in quotes, so it is a string and not
 * a number. `where` ("run.yaml:3:5") comes first in the message.
 */
int slc_option_set(struct slc_options *o, const struct slc_option *opt, const char *text,
                   bool quoted, const char *where, struct slc_err *e);

/* Read the run file into o; given[i] becomes true for each option it sets. */
int slc_options_read_file(struct slc_options *o, const char *path, bool *given,
                          struct slc_err *e);

#endif
