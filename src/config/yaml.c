/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/file.h"
#include "config/options_private.h"

/* A run file is a page of text; more than this is some other file. */
#define FILE_MAX (1u << 20)

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    const char *path;
    struct slc_options *o;
    bool *given;
    struct slc_err *e;
};

/* "run.yaml:3:5" of the current event, as compilers print it. */
static const char *where(struct reader *r)
{
    static _Thread_local char text[PATH_MAX + 48];

    snprintf(text, sizeof(text), "%s:%zu:%zu", r->path, r->event.start_mark.line + 1,
             r->event.start_mark.column + 1);
    return text;
}

static int next(struct reader *r)
{
    yaml_parser_t *p = &r->parser;

    yaml_event_delete(&r->event);
    if (yaml_parser_parse(p, &r->event))
        return 0;
    memset(&r->event, 0, sizeof(r->event));
    if (p->error == YAML_MEMORY_ERROR)
        return slc_errf(r->e, SLC_EXIT_SYSTEM, "no memory to read %s", r->path);
    if (p->error == YAML_READER_ERROR)
        return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: byte %zu: %s", r->path,
                        p->problem_offset, p->problem);
    return slc_errf(r->e, SLC_EXIT_CONFIG, "%s:%zu:%zu: not valid YAML: %s%s%s", r->path,
                    p->problem_mark.line + 1, p->problem_mark.column + 1,
                    p->context ? p->context : "", p->context ? ", " : "", p->problem);
}

static bool is_empty(const yaml_event_t *ev)
{
    const char *s = (const char *)ev->data.scalar.value;

    return ev->type == YAML_SCALAR_EVENT &&
           ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*s || !strcmp(s, "~") || !strcmp(s, "null"));
}

/* Refuse what is YAML but means nothing in a run file. */
static int check_node(struct reader *r)
{
    const yaml_event_t *ev = &r->event;
    const unsigned char *tag = NULL, *anchor = NULL;

    if (ev->type == YAML_ALIAS_EVENT)
        return slc_errf(r->e, SLC_EXIT_CONFIG,
                        "%s: not supported: aliases; write the value again", where(r));
    if (ev->type == YAML_SCALAR_EVENT) {
        tag = ev->data.scalar.tag;
        anchor = ev->data.scalar.anchor;
    } else if (ev->type == YAML_MAPPING_START_EVENT) {
        tag = ev->data.mapping_start.tag;
        anchor = ev->data.mapping_start.anchor;
    }
    if (tag || anchor)
        return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: not supported: %s; leave it out",
                        where(r), tag ? "tags" : "anchors");
    if (ev->type == YAML_SCALAR_EVENT &&
        strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length)
        return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: a zero byte in a value", where(r));
    return 0;
}

/* The key at the current event, malloc'ed. */
static char *take_key(struct reader *r)
{
    if (check_node(r) < 0)
        return NULL;
    if (r->event.type != YAML_SCALAR_EVENT) {
        slc_errf(r->e, SLC_EXIT_CONFIG, "%s: a key must be a plain word", where(r));
        return NULL;
    }
    char *key = strdup((const char *)r->event.data.scalar.value);
    if (!key)
        slc_errf(r->e, SLC_EXIT_SYSTEM, "no memory to read %s", r->path);
    return key;
}

static int read_value(struct reader *r, const struct slc_option *opt)
{
    const yaml_event_t *ev = &r->event;

    if (check_node(r) < 0)
        return -1;
    if (ev->type != YAML_SCALAR_EVENT)
        return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: %s.%s must be %s, not a %s", where(r),
                        opt->section, opt->key, slc_option_type_name(opt->type),
                        ev->type == YAML_SEQUENCE_START_EVENT ? "list" : "mapping");
    if (is_empty(ev))
        return slc_errf(r->e, SLC_EXIT_CONFIG,
                        "%s: %s.%s has no value; give %s or leave the key out", where(r),
                        opt->section, opt->key, slc_option_type_name(opt->type));
    bool quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return slc_option_set(r->o, opt, (const char *)ev->data.scalar.value, quoted, where(r),
                          r->e);
}

static int unknown(struct reader *r, const char *section, const char *key)
{
    char advice[256];

    slc_option_advice(section, key, advice, sizeof(advice));
    return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: unknown %s %.60s%s%.60s; %s", where(r),
                    key ? "key" : "section", section, key ? "." : "", key ? key : "",
                    advice);
}

/* One "key: value" of a section; the current event is the key. */
static int read_option(struct reader *r, const char *section)
{
    char *key = take_key(r);

    if (!key)
        return -1;
    const struct slc_option *opt = slc_option_find(section, key);
    int rc = opt ? 0 : unknown(r, section, key);
    free(key);
    if (rc < 0)
        return -1;
    bool *given = &r->given[opt - slc_option_table];
    if (*given)
        return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: %s.%s is given twice", where(r),
                        opt->section, opt->key);
    *given = true;
    return next(r) < 0 ? -1 : read_value(r, opt);
}

static int read_section(struct reader *r, const char *section)
{
    if (next(r) < 0 || check_node(r) < 0)
        return -1;
    if (is_empty(&r->event))
        return 0;
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: section %s must hold 'key: value' lines",
                        where(r), section);
    for (;;) {
        if (next(r) < 0)
            return -1;
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        if (read_option(r, section) < 0)
            return -1;
    }
}

/* The sections; `seen` holds a bit for the first option of each section met so far. */
static int read_sections(struct reader *r)
{
    bool seen[SLC_OPTION_MAX] = {false};

    for (;;) {
        if (next(r) < 0)
            return -1;
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        char *section = take_key(r);
        if (!section)
            return -1;
        int rc = 0, first = 0;
        while (first < slc_option_count && strcmp(slc_option_table[first].section, section))
            first++;
        if (first == slc_option_count)
            rc = unknown(r, section, NULL);
        else if (seen[first])
            rc = slc_errf(r->e, SLC_EXIT_CONFIG, "%s: section %s is given twice", where(r),
                          section);
        else
            seen[first] = true;
        if (rc == 0)
            rc = read_section(r, section);
        free(section);
        if (rc < 0)
            return -1;
    }
}

static int read_stream(struct reader *r)
{
    if (next(r) < 0 || next(r) < 0) /* start of stream, then of the document */
        return -1;
    if (r->event.type == YAML_STREAM_END_EVENT)
        return 0;
    if (next(r) < 0 || check_node(r) < 0)
        return -1;
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        if (read_sections(r) < 0)
            return -1;
    } else if (!is_empty(&r->event)) {
        return slc_errf(r->e, SLC_EXIT_CONFIG,
                        "%s: a run file holds sections (model:, data:, run:, ...) with "
                        "'key: value' lines; see sluice-run(5)",
                        where(r));
    }
    if (next(r) < 0 || next(r) < 0) /* end of the document, then of the stream */
        return -1;
    if (r->event.type != YAML_STREAM_END_EVENT)
        return slc_errf(r->e, SLC_EXIT_CONFIG, "%s: a run file is one document, not several",
                        where(r));
    return 0;
}

int slc_options_read_file(struct slc_options *o, const char *path, bool *given,
                          struct slc_err *e)
{
    struct reader r = {.path = path, .o = o, .given = given, .e = e};
    char *text;
    size_t len;

    if (slc_file_read(path, FILE_MAX, &text, &len, e) < 0) {
        if (e && e->code == SLC_EXIT_INPUT)
            e->code = SLC_EXIT_CONFIG;
        return slc_err_prefix(e, "run file");
    }
    int rc = -1;
    if (!yaml_parser_initialize(&r.parser)) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to read %s", path);
        goto err_free;
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    rc = read_stream(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
err_free:
    free(text);
    return rc;
}
