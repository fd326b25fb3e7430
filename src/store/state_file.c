/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state_file.h"

#include <hdf5.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/h5.h"
#include "store/plan.h"

/* After a close that failed (disk full, I/O error) HDF5 1.10 crashes in its own exit
 * handler, and the job's exit code with it. We close what we open; it has nothing to do
 * there. Must be said before the library's first call. */
__attribute__((constructor)) static void no_exit_handler(void)
{
    H5dont_atexit();
}

/* bf16 has no type of HDF5's own in every version: 1 sign, 8 exponent, 7 mantissa bits.
 */
static hid_t make_bf16(void)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);

    H5Tset_fields(type, 15, 7, 8, 0, 7);
    H5Tset_offset(type, 0);
    H5Tset_precision(type, 16);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 127);
    return type;
}

/* A copy the caller closes. */
static hid_t file_type(enum slc_dtype t)
{
    switch (t) {
    case SLC_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case SLC_BF16:
        return make_bf16();
    case SLC_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case SLC_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case SLC_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case SLC_U8:
        return H5Tcopy(H5T_STD_U8LE);
    }
    SLC_BUG("dtype %d has no file type", (int)t);
}

/* -- creating ------------------------------------------------------------------ */

/* Pages keep metadata out of the padding behind a tensor; the newest layout of 1.10 has
 * checksums on all metadata; no times, so the same state gives the same bytes. */
static hid_t create_file(const char *path)
{
    hid_t how = H5Pcreate(H5P_FILE_CREATE), access = slc_h5_file_access();

    H5Pset_file_space_strategy(how, H5F_FSPACE_STRATEGY_PAGE, false, 1);
    H5Pset_file_space_page_size(how, SLC_CKPT_PAGE);
    H5Pset_obj_track_times(how, false);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, how, access);
    H5Pclose(access);
    H5Pclose(how);
    return file;
}

/* Every group on the way to `name`. */
static int create_groups(hid_t file, const char *name)
{
    char part[96];

    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof(part), "%.*s", (int)(slash - name), name);
        htri_t there = H5Lexists(file, part, H5P_DEFAULT);
        if (there > 0)
            continue;
        hid_t how = H5Pcreate(H5P_GROUP_CREATE);
        H5Pset_obj_track_times(how, false);
        hid_t g =
            there < 0 ? -1 : H5Gcreate2(file, part, H5P_DEFAULT, how, H5P_DEFAULT);
        H5Pclose(how);
        if (g < 0)
            return -1;
        H5Gclose(g);
    }
    return 0;
}

/* A dataset with its bytes allocated and untouched; negative on failure. */
static hid_t create_dataset(hid_t file, const char *name, hid_t type, int ndim,
                            const int64_t *shape)
{
    hsize_t dims[4];

    if (create_groups(file, name) < 0)
        return -1;
    for (int i = 0; i < ndim; i++)
        dims[i] = (hsize_t)shape[i];
    hid_t space = ndim ? H5Screate_simple(ndim, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(how, H5D_CONTIGUOUS);
    H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(how, false);
    hid_t d = H5Dcreate2(file, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    H5Sclose(space);
    return d;
}

static int create_tensor(hid_t file, const struct slc_ckpt_tensor *t, int64_t *offset)
{
    hid_t type = file_type(t->dtype);
    hid_t d = create_dataset(file, t->name, type, t->ndim, t->shape);

    H5Tclose(type);
    if (d < 0)
        return -1;
    haddr_t at = H5Dget_offset(d);
    *offset = at == HADDR_UNDEF ? -1 : (int64_t)at;
    return H5Dclose(d) < 0 ? -1 : 0;
}

static int put_text(hid_t file, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    size_t len = text ? strlen(text) : 0;

    H5Tset_size(type, len ? len : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t d = create_dataset(file, name, type, 0, NULL);
    int rc =
        d >= 0 && H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, len ? text : "") >= 0
            ? 0
            : -1;
    if (d >= 0 && H5Dclose(d) < 0)
        rc = -1;
    H5Tclose(type);
    return rc;
}

static int put_state(hid_t file, const struct slc_ckpt_state *s, int world)
{
    const struct {
        const char *name;
        int64_t value;
    } counters[] = {
        {"step", s->step},       {"updates", s->updates},
        {"samples", s->samples}, {"tokens", s->tokens},
        {"skipped", s->skipped}, {"seed", (int64_t)s->seed},
        {"world", world},        {"spec_digest", (int64_t)s->spec_digest},
        {"version", 1},          {"corpus_digest", (int64_t)s->corpus_digest},
    };

    for (size_t i = 0; i < sizeof(counters) / sizeof(*counters); i++)
        if (slc_h5_put_int(file, counters[i].name, counters[i].value) < 0)
            return -1;
    return slc_h5_put_text(file, "format", "sluice-checkpoint") < 0 ||
                   slc_h5_put_real(file, "best_validation", s->best_validation) < 0 ||
                   put_text(file, "state/config", s->config) < 0 ||
                   put_text(file, "state/run_file", s->run_file) < 0 ||
                   put_text(file, "state/versions", s->versions) < 0
               ? -1
               : 0;
}

struct place {
    int64_t begin, end;
    const char *name;
};

static int by_begin(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Trust no offset: allocated, page aligned where it must be, inside the file, apart. */
static int check_offsets(const char *path, const struct slc_ckpt_tensor *t, int n,
                         const int64_t *offsets, struct slc_err *e)
{
    struct stat st;
    int64_t at = 0;
    int rc = 0;
    struct place *x = malloc(((size_t)n + 1) * sizeof(*x));

    if (!x)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to check %s", path);
    if (stat(path, &st) < 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot look at %s", path);
    for (int i = 0; i < n; i++)
        x[i] =
            (struct place){offsets[i], offsets[i] + slc_tensor_bytes(&t[i]), t[i].name};
    qsort(x, (size_t)n, sizeof(*x), by_begin);
    for (int i = 0; i < n && rc == 0; at = x[i++].end)
        if (x[i].begin < 0 || x[i].begin < at || x[i].end > st.st_size ||
            (x[i].end - x[i].begin >= SLC_CKPT_PAGE && x[i].begin % SLC_CKPT_PAGE))
            rc = slc_errf(e, SLC_EXIT_BUG,
                          "%s: HDF5 put tensor %s at byte %lld, which cannot be used",
                          path, x[i].name, (long long)x[i].begin);
    free(x);
    return rc;
}

int slc_state_file_create(const char *path, const struct slc_ckpt_state *s, int world,
                          const struct slc_ckpt_tensor *t, int n, int64_t *offsets,
                          struct slc_err *e)
{
    int rc = 0;

    slc_h5_quiet();
    hid_t file = create_file(path);
    if (file < 0)
        return slc_h5_failed(path, "cannot create", SLC_EXIT_SYSTEM, e);
    for (int i = 0; i < n && rc == 0; i++)
        if (create_tensor(file, &t[i], &offsets[i]) < 0)
            rc = slc_h5_failed(path, t[i].name, SLC_EXIT_SYSTEM, e);
    if (rc == 0 && put_state(file, s, world) < 0)
        rc = slc_h5_failed(path, "cannot write the small state", SLC_EXIT_SYSTEM, e);
    if (H5Fclose(file) < 0 && rc == 0)
        rc = slc_h5_failed(path, "cannot close", SLC_EXIT_SYSTEM, e);
    return rc < 0 ? -1 : check_offsets(path, t, n, offsets, e);
}

/* -- walking ------------------------------------------------------------------- */

struct walk {
    const struct slc_manifest *m;
    void (*say)(void *ctx, const char *line);
    void *ctx;
    int lines, datasets;
    char prefix[128];
};

static void say(struct walk *w, const char *name, const char *what)
{
    char line[256];

    snprintf(line, sizeof(line), "state.h5: %s %s", name, what);
    w->say(w->ctx, line);
    w->lines++;
}

static bool same_shape(hid_t d, const struct slc_ckpt_entry *x)
{
    hid_t space = H5Dget_space(d);
    hsize_t dims[H5S_MAX_RANK];
    int ndim = H5Sget_simple_extent_dims(space, dims, NULL);
    bool same = ndim == x->ndim;

    for (int i = 0; same && i < ndim; i++)
        same = dims[i] == (hsize_t)x->shape[i];
    H5Sclose(space);
    return same;
}

static bool same_type(hid_t d, enum slc_dtype dtype)
{
    hid_t have = H5Dget_type(d), want = file_type(dtype);
    bool same = H5Tequal(have, want) > 0;

    H5Tclose(have);
    H5Tclose(want);
    return same;
}

/* Contiguous, inside this file, nothing between the bytes and the reader. */
static bool plain(hid_t d)
{
    hid_t how = H5Dget_create_plist(d);
    bool ok = H5Pget_layout(how) == H5D_CONTIGUOUS && H5Pget_external_count(how) == 0 &&
              H5Pget_nfilters(how) == 0;

    H5Pclose(how);
    return ok;
}

static bool same_text(hid_t d, const char *want)
{
    hid_t type = H5Dget_type(d);
    size_t size = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0
                      ? H5Tget_size(type)
                      : 0;
    char *text = calloc(1, size + 1);
    bool same = text && size && size < (1u << 30) &&
                H5Dread(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0 &&
                !strcmp(text, want);

    free(text);
    H5Tclose(type);
    return same;
}

static void check_state_text(struct walk *w, const char *name, hid_t d)
{
    const struct slc_ckpt_state *s = &w->m->state;
    const char *want = !strcmp(name, "state/config")     ? s->config
                       : !strcmp(name, "state/run_file") ? s->run_file
                       : !strcmp(name, "state/versions") ? s->versions
                                                         : NULL;

    if (!want)
        say(w, name, "is not in the manifest");
    else if (!same_text(d, want))
        say(w, name, "differs from the manifest");
}

static void check_dataset(struct walk *w, const char *name, hid_t d)
{
    int i = slc_manifest_find(w->m, name);

    if (!plain(d)) {
        say(w, name, "is not one contiguous plain dataset");
        return;
    }
    if (!strncmp(name, "state/", 6)) {
        check_state_text(w, name, d);
        return;
    }
    if (i < 0) {
        say(w, name, "is not in the manifest");
        return;
    }
    w->datasets++;
    const struct slc_manifest_tensor *t = &w->m->t[i];
    haddr_t at = H5Dget_offset(d);
    if (at == HADDR_UNDEF || (int64_t)at != t->offset)
        say(w, name, "is not where the manifest says");
    if (!same_shape(d, &t->entry))
        say(w, name, "has not the shape of the manifest");
    if (!same_type(d, t->entry.dtype))
        say(w, name, "has not the type of the manifest");
}

static herr_t visit(hid_t group, const char *name, const H5L_info_t *info, void *ctx)
{
    struct walk *w = ctx;
    char full[256], kept[sizeof(w->prefix)];

    snprintf(full, sizeof(full), "%s%s", w->prefix, name);
    if (info->type != H5L_TYPE_HARD) {
        say(w, full, "is not a hard link");
        return 0;
    }
    hid_t o = H5Oopen(group, name, H5P_DEFAULT);
    if (o < 0) {
        say(w, full, "cannot be opened");
        return 0;
    }
    if (H5Iget_type(o) == H5I_DATASET) {
        check_dataset(w, full, o);
    } else if (H5Iget_type(o) == H5I_GROUP && strlen(full) + 2 < sizeof(kept)) {
        memcpy(kept, w->prefix, sizeof(kept));
        snprintf(w->prefix, sizeof(w->prefix), "%.*s/", (int)sizeof(w->prefix) - 2,
                 full);
        if (H5Literate(o, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit, w) < 0)
            say(w, full, "cannot be walked");
        memcpy(w->prefix, kept, sizeof(kept));
    } else {
        say(w, full, "is neither a group nor a dataset");
    }
    H5Oclose(o);
    return 0;
}

static void check_counters(struct walk *w, const char *path, hid_t file)
{
    const struct slc_ckpt_state *s = &w->m->state;
    const struct {
        const char *name;
        int64_t value;
    } want[] = {{"step", s->step},          {"updates", s->updates},
                {"samples", s->samples},    {"tokens", s->tokens},
                {"seed", (int64_t)s->seed}, {"world", w->m->world}};

    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        int64_t have = 0;
        if (slc_h5_get_int(file, want[i].name, &have, path, NULL) < 0 ||
            have != want[i].value)
            say(w, want[i].name, "(attribute) differs from the manifest");
    }
}

int slc_state_file_walk(const char *path, const struct slc_manifest *m,
                        void (*tell)(void *ctx, const char *line), void *ctx,
                        struct slc_err *e)
{
    struct walk w = {.m = m, .say = tell, .ctx = ctx};

    slc_h5_quiet();
    H5PLset_loading_state(0); /* no plug-in code for a file that needs none */
    hid_t access = slc_h5_file_access();
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (file < 0)
        return slc_h5_failed(path, "cannot open", SLC_EXIT_CHECKPOINT, e);
    check_counters(&w, path, file);
    if (H5Literate(file, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit, &w) < 0)
        say(&w, "/", "cannot be walked");
    if (w.datasets != m->n)
        say(&w, "/", "does not hold every tensor of the manifest");
    H5Fclose(file);
    return w.lines;
}
