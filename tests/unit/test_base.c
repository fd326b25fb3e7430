/* SPDX-License-Identifier: Apache-2.0 */
/* Errors, memory, random numbers, number formats, JSON. */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/json.h"
#include "base/rng.h"

/* -- err ------------------------------------------------------------------------ */

Test(err, set_and_prefix)
{
    struct slc_err e = SLC_ERR_INIT;

    errno = ENOSPC;
    cr_expect_eq(slc_errf(&e, SLC_EXIT_INPUT, "tensor %s has %d rows", "a", 3), -1);
    cr_expect_eq(errno, ENOSPC);
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
    cr_expect_eq(e.rank, -1);
    cr_expect_gt(e.line, 0);
    cr_expect_str_eq(e.text, "tensor a has 3 rows");
    cr_expect_eq(slc_err_prefix(&e, "file %d", 7), -1);
    cr_expect_str_eq(e.text, "file 7: tensor a has 3 rows");
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
    cr_expect_eq(slc_errf(NULL, SLC_EXIT_INPUT, "nobody listens"), -1);
    cr_expect_eq(slc_err_prefix(NULL, "nobody"), -1);
}

/* Long words are cut, never written behind the end. */
Test(err, long_text)
{
    struct {
        struct slc_err e;
        char guard[16];
    } s = {.e = SLC_ERR_INIT, .guard = "guard"};
    char word[2000];

    memset(word, 'x', sizeof(word) - 1);
    word[sizeof(word) - 1] = '\0';
    slc_errf(&s.e, SLC_EXIT_SYSTEM, "%s", word);
    cr_expect_eq(strlen(s.e.text), sizeof(s.e.text) - 1);
    for (int i = 0; i < 10; i++)
        slc_err_prefix(&s.e, "%s", word);
    cr_expect_lt(strlen(s.e.text), sizeof(s.e.text));
    cr_expect_str_eq(s.guard, "guard");
}

Test(err, bug_aborts, .signal = SIGABRT)
{
    SLC_ASSERT(1 + 1 == 3);
}

/* -- arena ---------------------------------------------------------------------- */

struct layout {
    char *a, *b, *c, *d;
};

static void lay_out(struct layout *l, struct slc_arena *a)
{
    l->a = slc_arena_take(a, "weights", 1000);
    size_t mark = slc_arena_mark(a);
    l->b = slc_arena_take(a, "forward", 5000);
    slc_arena_rewind(a, mark);
    l->c = slc_arena_take(a, "backward", 300);
    l->d = slc_arena_take(a, "weights", 24);
    cr_expect_null(slc_arena_take(a, "nothing", 0));
}

Test(arena, measure_then_carve)
{
    static _Alignas(256) char memory[8192];
    struct slc_arena a;
    struct layout l;

    slc_arena_measure(&a);
    lay_out(&l, &a);
    cr_expect(!l.a && !l.b && !l.c && !l.d);
    size_t size = slc_arena_size(&a);
    cr_expect_eq(size, 1024u + 5120u); /* the high-water mark, not the sum */
    cr_expect_eq(a.n_regions, 3);
    cr_expect_str_eq(a.regions[0].name, "weights");
    cr_expect_eq(a.regions[0].bytes, 1024u);
    slc_arena_carve(&a, memory);
    lay_out(&l, &a);
    cr_expect_eq(l.a, memory);
    cr_expect_eq(l.b, memory + 1024);
    cr_expect_eq(l.c, l.b);
    cr_expect_eq(l.d, memory + 1024 + 512);
    cr_expect_eq(slc_arena_size(&a), size);
    cr_expect_eq(a.regions[0].bytes, 1024u, "carving counts nothing");
}

Test(arena, more_than_measured_is_a_bug, .signal = SIGABRT)
{
    static _Alignas(256) char memory[8192];
    struct slc_arena a;

    slc_arena_measure(&a);
    slc_arena_take(&a, "x", 100);
    slc_arena_carve(&a, memory);
    slc_arena_take(&a, "x", 100);
    slc_arena_take(&a, "x", 1);
}

/* -- rng ------------------------------------------------------------------------ */

/* Key that slc_rng_block makes of a stream is undone, to reach the published vectors. */
static void philox(uint32_t k0, uint32_t k1, const uint32_t c[4], uint32_t out[4])
{
    uint64_t key = (uint64_t)k1 << 32 | k0;
    uint64_t seed = key ^ (uint64_t)SLC_RNG_TEST * 0x9E3779B97F4A7C15u;

    slc_rng_block(seed, SLC_RNG_TEST, (uint64_t)c[3] << 32 | c[2],
                  (uint64_t)c[1] << 32 | c[0], out);
}

/* Known answers of philox4x32-10 in the Random123 distribution (kat_vectors). */
Test(rng, philox_known_answers)
{
    static const struct {
        uint32_t c[4], k[2], want[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u},
         {~0u, ~0u},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        philox(kat[i].k[0], kat[i].k[1], kat[i].c, out);
        for (int j = 0; j < 4; j++)
            cr_expect_eq(out[j], kat[i].want[j], "vector %d word %d: %08x", i, j, out[j]);
    }
}

Test(rng, streams_seeds_and_counters_differ)
{
    uint64_t x = slc_rng_u64(1, SLC_RNG_INIT, 2, 3);

    cr_expect_eq(x, slc_rng_u64(1, SLC_RNG_INIT, 2, 3));
    cr_expect_neq(x, slc_rng_u64(2, SLC_RNG_INIT, 2, 3));
    cr_expect_neq(x, slc_rng_u64(1, SLC_RNG_SAMPLER, 2, 3));
    cr_expect_neq(x, slc_rng_u64(1, SLC_RNG_INIT, 3, 3));
    cr_expect_neq(x, slc_rng_u64(1, SLC_RNG_INIT, 2, 4));
}

/* Moments of many draws, five standard errors wide. */
Test(rng, uniform_and_normal_moments)
{
    const int n = 100000;
    double u = 0, u2 = 0, z = 0, z2 = 0, z4 = 0;

    for (int i = 0; i < n; i++) {
        double a = slc_rng_uniform(5, SLC_RNG_TEST, 0, (uint64_t)i);
        double b = slc_rng_normal(5, SLC_RNG_TEST, 1, (uint64_t)i);
        cr_assert(a >= 0 && a < 1);
        cr_assert(isfinite(b));
        u += a, u2 += a * a;
        z += b, z2 += b * b, z4 += b * b * b * b;
    }
    double r = 5 / sqrt(n);
    cr_expect_float_eq(u / n, 0.5, r * sqrt(1.0 / 12));
    cr_expect_float_eq(u2 / n, 1.0 / 3, r * sqrt(4.0 / 45));
    cr_expect_float_eq(z / n, 0, r);
    cr_expect_float_eq(z2 / n, 1, r * sqrt(2));
    cr_expect_float_eq(z4 / n, 3, r * sqrt(96));
}

Test(rng, hash_depends_on_every_byte)
{
    unsigned char text[40] = {0};
    uint64_t h = slc_hash64(text, sizeof(text));

    cr_expect_neq(h, slc_hash64(text, sizeof(text) - 1));
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = 1;
        cr_expect_neq(h, slc_hash64(text, sizeof(text)), "byte %zu", i);
        text[i] = 0;
    }
}

/* -- dtype ---------------------------------------------------------------------- */

/* Every bf16 value survives, and rounding goes to the nearest, ties to even. */
Test(dtype, bf16)
{
    for (uint32_t x = 0; x < 65536; x++) {
        float f = slc_bf16_to_f32((uint16_t)x);
        if (isnan(f))
            cr_assert(isnan(slc_bf16_to_f32(slc_f32_to_bf16(f))));
        else
            cr_assert_eq(slc_f32_to_bf16(f), x);
    }
    cr_expect_eq(slc_f32_to_bf16(1.0f + 0x1p-9f), 0x3f80);               /* below half */
    cr_expect_eq(slc_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);               /* tie to even */
    cr_expect_eq(slc_f32_to_bf16(1.0f + 0x1p-7f + 0x1p-8f), 0x3f82);     /* tie to even */
    cr_expect_eq(slc_f32_to_bf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);    /* above half */
    cr_expect_eq(slc_f32_to_bf16(3.4028234e38f), 0x7f80);                /* to infinity */
    for (int t = SLC_F32; t <= SLC_U8; t++)
        cr_expect_gt(slc_dtype_size(t), 0u);
    cr_expect_str_eq(slc_dtype_name(SLC_BF16), "bf16");
    cr_expect_str_eq(slc_dtype_name(SLC_U8), "uint8");
}

/* -- json ----------------------------------------------------------------------- */

static json_t *parse(const char *text, struct slc_err *e)
{
    return slc_json_parse(text, strlen(text), "x.json", e);
}

Test(json, getters)
{
    struct slc_err e = SLC_ERR_INIT;
    json_t *o = parse("{\"i\": 5, \"r\": 2.5, \"b\": true, \"s\": \"t\", \"n\": null}", &e);
    int64_t i = -1;
    double r = -1;
    bool b = false;
    const char *s = NULL;

    cr_assert_not_null(o, "%s", e.text);
    cr_expect_eq(slc_json_get_int(o, "i", &i, "x", &e), 0);
    cr_expect_eq(i, 5);
    cr_expect_eq(slc_json_get_real(o, "r", &r, "x", &e), 0);
    cr_expect_eq(r, 2.5);
    cr_expect_eq(slc_json_get_real(o, "i", &r, "x", &e), 0);
    cr_expect_eq(r, 5.0);
    cr_expect_eq(slc_json_get_bool(o, "b", &b, "x", &e), 0);
    cr_expect(b);
    cr_expect_eq(slc_json_need_str(o, "s", &s, "x", &e), 0);
    cr_expect_str_eq(s, "t");
    /* missing and null leave what was there */
    cr_expect_eq(slc_json_get_int(o, "none", &i, "x", &e), 0);
    cr_expect_eq(slc_json_get_int(o, "n", &i, "x", &e), 0);
    cr_expect_eq(i, 5);
    cr_expect_eq(slc_json_need_int(o, "n", &i, "x", &e), -1);
    cr_expect_str_eq(e.text, "x: \"n\" is missing");
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
    cr_expect_eq(slc_json_get_int(o, "r", &i, "x", &e), -1);
    cr_expect_str_eq(e.text, "x: \"r\" must be an integer");
    cr_expect_eq(slc_json_get_real(o, "s", &r, "x", &e), -1);
    cr_expect_eq(slc_json_get_bool(o, "i", &b, "x", &e), -1);
    cr_expect_eq(slc_json_get_str(o, "i", &s, "x", &e), -1);
    json_decref(o);
}

Test(json, bad_text_names_the_place)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_expect_null(parse("{\n\"a\": }", &e));
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
    cr_expect(strstr(e.text, "x.json line 2"), "%s", e.text);
    cr_expect_null(parse("{\"a\": 1, \"a\": 2}", &e));
    cr_expect(strstr(e.text, "duplicate"), "%s", e.text);
    cr_expect_null(slc_json_load("/nowhere/x.json", 100, &e));
    cr_expect(strstr(e.text, "/nowhere/x.json"), "%s", e.text);
}
