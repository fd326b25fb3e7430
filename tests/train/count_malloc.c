/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into sluice: counts allocations after the first training step and before the end of
 * step $COUNT_MALLOC_LAST by the object that called and by thread (main or other). At exit one line "OBJECT main|other CALLS [ADDRESS]" each
 * goes to the file $COUNT_MALLOC_OUT.PID; OBJECT is "sluice" for the program itself, and ADDRESS
 * is where in it the first call was made (for addr2line).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

enum { OBJECTS = 64 };
static struct object {
    char name[64];
    bool main_thread;
    unsigned long calls;
    uintptr_t first;
} objects[OBJECTS];
static int n_objects;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread bool inside;
static volatile int64_t *steps;
static int64_t last;

static void note(const void *caller)
{
    Dl_info info;
    const char *name = "unknown", *slash;
    bool main_thread = syscall(SYS_gettid) == getpid();
    uintptr_t base = 0;

    if (dladdr(caller, &info) && info.dli_fname) {
        name = info.dli_fname;
        base = (uintptr_t)info.dli_fbase;
        slash = strrchr(name, '/');
        name = slash ? slash + 1 : name;
    }
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < n_objects && (strncmp(objects[i].name, name, 63) != 0 ||
                             objects[i].main_thread != main_thread))
        i++;
    if (i == n_objects && n_objects < OBJECTS) {
        strncpy(objects[i].name, name, 63);
        objects[i].main_thread = main_thread;
        objects[i].first = (uintptr_t)caller - base;
        n_objects++;
    }
    if (i < n_objects)
        objects[i].calls++;
    pthread_mutex_unlock(&lock);
}

static void count(const void *caller)
{
    if (inside || !steps || *steps < 1 || *steps >= last)
        return;
    inside = true;
    note(caller);
    inside = false;
}

void *malloc(size_t n)
{
    count(__builtin_return_address(0));
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_realloc(p, n);
}
void *memalign(size_t align, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_memalign(align, n);
}
void *aligned_alloc(size_t align, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_memalign(align, n);
}
int posix_memalign(void **p, size_t align, size_t n)
{
    count(__builtin_return_address(0));
    *p = __libc_memalign(align, n);
    return *p ? 0 : 12;
}

__attribute__((constructor)) static void start(void)
{
    inside = true;
    const char *text = getenv("COUNT_MALLOC_LAST");
    last = text ? atoll(text) : INT64_MAX;
    steps = dlsym(RTLD_DEFAULT, "slc_steps_finished");
    inside = false;
}

__attribute__((destructor)) static void report(void)
{
    const char *out = getenv("COUNT_MALLOC_OUT");
    char path[4096];

    inside = true;
    if (!out || !steps || *steps < 2)
        return;
    snprintf(path, sizeof(path), "%s.%ld", out, (long)getpid());
    FILE *f = fopen(path, "w");
    if (!f)
        return;
    fprintf(f, "steps %lld\n", (long long)*steps);
    for (int i = 0; i < n_objects; i++)
        fprintf(f, "%s %s %lu 0x%lx\n", objects[i].name,
                objects[i].main_thread ? "main" : "other", objects[i].calls,
                (unsigned long)objects[i].first);
    fclose(f);
}
