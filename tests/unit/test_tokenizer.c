/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "data/tokenizer.h"

Test(tokenizer, bytes_round_trip)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_tokenizer *t = slc_tokenizer_open("bytes", &e);
    char text[256], back[256];
    int32_t ids[256];

    cr_assert_not_null(t, "%s", e.text);
    cr_expect_str_eq(slc_tokenizer_name(t), "bytes");
    cr_expect_eq(slc_tokenizer_vocab(t), 256);
    for (int i = 0; i < 256; i++)
        text[i] = (char)(255 - i);
    cr_expect_eq(slc_tokenizer_encode(t, text, 256, ids, 256), 256);
    for (int i = 0; i < 256; i++)
        cr_expect_eq(ids[i], 255 - i);
    cr_expect_eq(slc_tokenizer_decode(t, ids, 256, back, 256), 256);
    cr_expect_eq(memcmp(text, back, 256), 0);
    slc_tokenizer_close(t);
}

Test(tokenizer, cap_limits_what_is_written)
{
    struct slc_tokenizer *t = slc_tokenizer_open("bytes", NULL);
    int32_t ids[4] = {-7, -7, -7, -7};
    char text[4] = "????";

    cr_expect_eq(slc_tokenizer_encode(t, "abcdef", 6, ids, 3), 6);
    cr_expect_eq(ids[2], 'c');
    cr_expect_eq(ids[3], -7);
    cr_expect_eq(slc_tokenizer_encode(t, "abcdef", 6, NULL, 0), 6);
    cr_expect_eq(slc_tokenizer_decode(t, (int32_t[]){'a', 'b', 'c', 'd'}, 4, text, 2), 4);
    cr_expect_eq(memcmp(text, "ab??", 4), 0);
    slc_tokenizer_close(t);
}

Test(tokenizer, ids_that_are_no_bytes)
{
    struct slc_tokenizer *t = slc_tokenizer_open("bytes", NULL);
    char text[16];
    int32_t ids[] = {'a', 256, -1, 'b'};

    cr_expect_eq(slc_tokenizer_decode(t, ids, 4, text, 16), 8);
    cr_expect_eq(memcmp(text, "a\xef\xbf\xbd\xef\xbf\xbd" "b", 8), 0);
    slc_tokenizer_close(t);
}

Test(tokenizer, unknown_name)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_expect_null(slc_tokenizer_open("bpe", &e));
    cr_expect_eq(e.code, SLC_EXIT_UNSUPPORTED);
    cr_expect(strstr(e.text, "bytes"), "%s", e.text);
    slc_tokenizer_close(NULL);
}
