/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "config/options.h"

#define WORD_MAX 64

static int min2(int a, int b)
{
    return a < b ? a : b;
}

/* Edits (insert, delete, replace, swap of neighbours) from a to b. */
static int distance(const char *a, const char *b)
{
    int n = (int)strlen(a), m = (int)strlen(b);
    int d[3][WORD_MAX + 1];

    if (n > WORD_MAX || m > WORD_MAX)
        return 2 * WORD_MAX;
    for (int j = 0; j <= m; j++)
        d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *row = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            row[j] = min2(up[j - 1] + (a[i - 1] != b[j - 1]),
                          min2(up[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = min2(row[j], up2[j - 2] + 1);
        }
    }
    return d[n % 3][m];
}

const char *slc_nearest(const char *word, const char *const *known, int n)
{
    const char *best = NULL;
    /* About one slip in three letters; more would be guessing. */
    int limit = ((int)strlen(word) + 2) / 3;

    for (int i = 0; i < n; i++) {
        int d = distance(word, known[i]);
        if (d <= limit && d < (int)strlen(known[i])) {
            best = known[i];
            limit = d - 1;
        }
    }
    return best;
}
