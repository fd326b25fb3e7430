/* SPDX-License-Identifier: Apache-2.0 */
/* Linked with the program in tests/train/planted: one allocation now and then that the counter
 * must find, made from the program's own code. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *volatile kept;

static void *allocate(void *unused)
{
    for (;;) {
        kept = malloc(24);
        free(kept);
        usleep(1000);
    }
    return unused;
}

__attribute__((constructor)) static void plant(void)
{
    pthread_t t;

    if (pthread_create(&t, NULL, allocate, NULL) == 0)
        pthread_detach(t);
}
