/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "corpus_fixture.h"

TestSuite(file, .init = dir_setup, .fini = dir_teardown);

static int entries(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;

    for (struct dirent *f; d && (f = readdir(d));)
        n += f->d_name[0] != '.';
    closedir(d);
    return n;
}

Test(file, replace_and_read)
{
    struct slc_err e = SLC_ERR_INIT;
    const char *path = in_dir("f");
    char *data;
    size_t len;

    for (size_t n = 0; n < 100000; n = n * 7 + 1) {
        char *text = malloc(n + 1);
        memset(text, 'a', n);
        cr_assert_eq(slc_file_replace(path, text, n, &e), 0, "%s", e.text);
        cr_assert_eq(slc_file_read(path, 100000, &data, &len, &e), 0, "%s", e.text);
        cr_expect_eq(len, n);
        cr_expect_eq(memcmp(data, text, n), 0);
        cr_expect_eq(data[n], '\0');
        free(data);
        free(text);
    }
    cr_expect_eq(entries(dir), 1, "a temporary file is left");
}

Test(file, a_failed_replace_keeps_the_old)
{
    struct slc_err e = SLC_ERR_INIT;
    char *data;
    size_t len;

    put_text("old", "old");
    cr_assert_eq(mkdir(in_dir("folder"), 0777), 0);
    cr_assert_eq(mkdir(in_dir("folder/x"), 0777), 0);
    cr_expect_eq(slc_file_replace(in_dir("folder"), "new", 3, &e), -1);
    cr_expect_eq(e.code, SLC_EXIT_SYSTEM);
    cr_expect_eq(entries(dir), 2, "a temporary file is left");
    cr_expect_eq(slc_file_replace(in_dir("none/x"), "new", 3, &e), -1);
    cr_expect(strstr(e.text, "none/x"), "%s", e.text);
    cr_assert_eq(slc_file_read(in_dir("old"), 3, &data, &len, &e), 0);
    cr_expect_eq(memcmp(data, "old", 3), 0);
    free(data);
}

Test(file, read_refuses)
{
    struct slc_err e = SLC_ERR_INIT;
    char *data;
    size_t len;

    put_text("f", "12345");
    cr_expect_eq(slc_file_read(in_dir("f"), 4, &data, &len, &e), -1);
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
    cr_expect(strstr(e.text, "5 bytes"), "%s", e.text);
    cr_expect_eq(slc_file_read(dir, 100, &data, &len, &e), -1);
    cr_expect(strstr(e.text, "not a regular file"), "%s", e.text);
    cr_expect_eq(slc_file_read(in_dir("none"), 100, &data, &len, &e), -1);
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
}

Test(file, pread_and_pwrite_at_places)
{
    struct slc_err e = SLC_ERR_INIT;
    int fd = open(in_dir("f"), O_RDWR | O_CREAT, 0666);
    char buf[8];

    cr_assert_eq(slc_pwrite_all(fd, "hello", 5, 100, "f", &e), 0);
    cr_assert_eq(slc_pread_all(fd, buf, 3, 102, "f", &e), 0);
    cr_expect_eq(memcmp(buf, "llo", 3), 0);
    cr_expect_eq(slc_pread_all(fd, buf, 6, 100, "f", &e), -1);
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
    cr_expect(strstr(e.text, "1 bytes early"), "%s", e.text);
    close(fd);
    cr_expect_eq(slc_pread_all(fd, buf, 1, 0, "f", &e), -1);
    cr_expect_eq(e.code, SLC_EXIT_SYSTEM);
    int full = open("/dev/full", O_WRONLY);
    if (full >= 0) {
        cr_expect_eq(slc_pwrite_all(full, "x", 1, 0, "/dev/full", &e), -1);
        cr_expect(strstr(e.text, "No space"), "%s", e.text);
        close(full);
    }
}

Test(file, mkdirs)
{
    struct slc_err e = SLC_ERR_INIT;
    struct stat st;

    cr_assert_eq(slc_mkdirs(in_dir("a/b//c/"), &e), 0, "%s", e.text);
    cr_expect(stat(in_dir("a/b/c"), &st) == 0 && S_ISDIR(st.st_mode));
    cr_expect_eq(slc_mkdirs(in_dir("a/b/c"), &e), 0);
    put_text("f", "x");
    cr_expect_eq(slc_mkdirs(in_dir("f"), &e), -1);
    cr_expect_eq(slc_mkdirs(in_dir("f/g"), &e), -1);
    cr_expect_eq(slc_mkdirs("", &e), -1);
    cr_expect_eq(slc_fsync_dir(in_dir("a"), &e), 0);
    cr_expect_eq(slc_fsync_dir(in_dir("none"), &e), -1);
}
