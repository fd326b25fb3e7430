/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/golden.h"

#include <jansson.h>

static char *file;
static json_t *header;
static size_t data_at;

static void load(void)
{
    const char *top = getenv("top_srcdir");
    char path[4096];
    uint64_t len;
    long size;

    snprintf(path, sizeof(path), "%s/tests/data/golden/ops.safetensors",
             top ? top : ".");
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s cannot be read; is top_srcdir set?", path);
    cr_assert(fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) > 8 &&
              fseek(f, 0, SEEK_SET) == 0);
    file = malloc((size_t)size);
    op_keep(file);
    cr_assert(fread(file, 1, (size_t)size, f) == (size_t)size);
    fclose(f);
    memcpy(&len, file, 8);
    header = json_loadb(file + 8, len, 0, NULL);
    cr_assert(header && 8 + len <= (size_t)size);
    data_at = 8 + len;
}

static json_t *entry(const char *test, const char *name)
{
    char full[128];

    if (!file)
        load();
    snprintf(full, sizeof(full), "%s.%s", test, name);
    return json_object_get(header, full);
}

bool golden_has(const char *test, const char *name)
{
    return entry(test, name) != NULL;
}

struct golden golden_get(const char *test, const char *name)
{
    json_t *t = entry(test, name), *shape = json_object_get(t, "shape");
    struct golden g = {.n = 1};

    cr_assert(t, "no golden %s.%s", test, name);
    g.data = file + data_at +
             json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0));
    g.ndim = (int)json_array_size(shape);
    for (int i = 0; i < g.ndim; i++) {
        g.shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        g.n *= g.shape[i];
    }
    return g;
}

float golden_scalar(const char *test, const char *name)
{
    float x;

    memcpy(&x, golden_get(test, name).data, 4);
    return x;
}

void *golden_up(struct op_dev *d, const char *test, const char *name)
{
    struct golden g = golden_get(test, name);

    return op_up(d, g.data, (size_t)g.n * 4);
}

static void compare(const struct op_value *v, const char *test, const char *backend)
{
    struct golden g = golden_get(test, v->name);
    const double tol = strcmp(backend, "cpu") ? fmin(v->tol, 2e-6) : v->tol;
    double rms = 0;

    cr_assert_eq(g.n, v->n, "%s.%s has %d elements, not %d", test, v->name, (int)g.n,
                 (int)v->n);
    for (int64_t i = 0; i < g.n; i++)
        rms += pow(op_get(g.data, v->dtype, i), 2);
    rms = fmax(sqrt(rms / (double)g.n), v->floor);
    for (int64_t i = 0; i < g.n; i++) {
        double x = op_get(v->data, v->dtype, i), y = op_get(g.data, v->dtype, i);

        cr_assert(fabs(x - y) <= tol * (fabs(y) + rms),
                  "%s: %s.%s[%d] is %.9g, published %.9g", backend, test, v->name,
                  (int)i, x, y);
    }
}

void golden_check(op_test *f, const char *test)
{
    static const char *const backends[] = {"ref", "cpu", "strict"};

    golden_has(test, "x"); /* load the file before op_run keeps its own allocations */
    for (int b = 0; b < 3; b++) {
        struct op_out o;

        op_run(backends[b], f, test, &o);
        for (int i = 0; i < o.n; i++)
            compare(&o.v[i], test, backends[b]);
        op_out_free(&o);
    }
}
