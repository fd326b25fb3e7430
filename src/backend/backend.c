/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODULE "sluice-cuda.so"

/* The folder of the running program; the module lies there in a build tree. */
static void program_dir(char *dir, size_t len)
{
    ssize_t n = readlink("/proc/self/exe", dir, len - 1);

    dir[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = '\0';
}

static void *module_load(struct slc_err *e)
{
    char beside[PATH_MAX], path[PATH_MAX + 32];
    const char *asked = getenv("SLUICE_MODULE_DIR");
    const char *dirs[4] = {asked, SLC_PKGLIBDIR, beside, beside};

    program_dir(beside, sizeof(beside));
    for (int i = 0; i < 4; i++) {
        if (!dirs[i] || !dirs[i][0])
            continue;
        snprintf(path, sizeof(path), "%s/%s" MODULE, dirs[i], i == 3 ? ".libs/" : "");
        if (access(path, F_OK) != 0)
            continue;
        void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!module)
            slc_errf(
                e, SLC_EXIT_UNSUPPORTED,
                "backend cuda: %s does not load: %s; install what it names, or use "
                "backend cpu",
                path, dlerror());
        return module;
    }
    slc_errf(e, SLC_EXIT_UNSUPPORTED,
             "backend cuda: no module " MODULE " in %s%s%s or %s; build Sluice with "
             "--with-cuda, set SLUICE_MODULE_DIR, or use backend cpu",
             asked ? asked : "", asked ? ", " : "", SLC_PKGLIBDIR, beside);
    return NULL;
}

static struct slc_backend *cuda_open(const struct slc_backend_options *opts,
                                     struct slc_err *e)
{
    slc_backend_cuda_create_f *create;
    void *module = module_load(e);

    if (!module)
        return NULL;
    *(void **)&create = dlsym(module, SLC_CUDA_MODULE_SYMBOL);
    if (!create) {
        slc_errf(e, SLC_EXIT_UNSUPPORTED,
                 "backend cuda: " MODULE " has no " SLC_CUDA_MODULE_SYMBOL
                 "; it belongs to another version of Sluice, install them together");
        dlclose(module);
        return NULL;
    }
    return create(SLC_BACKEND_ABI, opts, e);
}

struct slc_backend *slc_backend_open(const char *name,
                                     const struct slc_backend_options *opts,
                                     struct slc_err *e)
{
    const struct slc_backend_options none = {0};

    if (!opts)
        opts = &none;
    if (opts->threads > 0)
        omp_set_num_threads(opts->threads);
    if (!strcmp(name, "cpu") || !strcmp(name, "ref"))
        return slc_backend_host_create(name, e);
    if (!strcmp(name, "strict"))
        return slc_backend_strict_create(e);
    if (!strcmp(name, "cuda"))
        return cuda_open(opts, e);
    slc_errf(e, SLC_EXIT_CONFIG, "backend \"%s\" is not known; use cpu or cuda", name);
    return NULL;
}

void slc_backend_close(struct slc_backend *b)
{
    if (b)
        b->calls.destroy(b);
}
