/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PMIx carries one blob per rank and is closed at once: an open PMIx session makes the
 * launcher kill the whole step when a rank dies, before anybody can say why.
 */
#include "comm/comm_private.h"

#include <pmix.h>

#include "base/fail.h"
#include <stdlib.h>
#include <string.h>

#define BLOB_KEY "sluice.blob"
#define FENCE_SECONDS 120

static pmix_proc_t self;

static int pmix_error(struct slc_err *e, const char *what, pmix_status_t rc)
{
    return slc_errf(e, SLC_EXIT_SYSTEM,
                    "%s: %s; is the PMIx of the launcher the one "
                    "sluice was built with?",
                    what, PMIx_Error_string(rc));
}

static int env_int(const char *name)
{
    const char *text = getenv(name);

    return text ? atoi(text) : 0;
}

int slc_bootstrap_find(struct slc_err *e)
{
    int step_tasks = env_int("SLURM_STEP_NUM_TASKS");

    if (getenv("PMIX_RANK"))
        return 1;
    if (!step_tasks && getenv("SLURM_STEP_ID"))
        step_tasks = env_int("SLURM_NTASKS");
    if (step_tasks > 1)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "srun started %d tasks without PMIx; use: "
                        "srun --mpi=pmix",
                        step_tasks);
    if (env_int("PMI_SIZE") > 1 || env_int("OMPI_COMM_WORLD_SIZE") > 1)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "started by a launcher without PMIx; use: "
                        "srun --mpi=pmix");
    return 0;
}

int slc_bootstrap_open(struct slc_world *w, struct slc_err *e)
{
    pmix_proc_t job;
    pmix_value_t *value = NULL;
    pmix_status_t rc = PMIx_Init(&self, NULL, 0);

    if (rc == PMIX_ERR_UNREACH)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "the launcher's PMIx server does not answer; "
                        "use: srun --mpi=pmix");
    if (rc != PMIX_SUCCESS)
        return pmix_error(e, "PMIx_Init", rc);
    slc_fail_set_phase("bootstrap");
    PMIX_LOAD_PROCID(&job, self.nspace, PMIX_RANK_WILDCARD);
    rc = PMIx_Get(&job, PMIX_JOB_SIZE, NULL, 0, &value);
    if (rc != PMIX_SUCCESS) {
        pmix_error(e, "PMIx_Get of the job size", rc);
        goto err_finalize;
    }
    w->size = (int)value->data.uint32;
    w->rank = (int)self.rank;
    PMIX_VALUE_RELEASE(value);
    if (w->size > SLC_RANKS_MAX) {
        slc_errf(e, SLC_EXIT_UNSUPPORTED, "not supported: %d ranks, the most is %d",
                 w->size, SLC_RANKS_MAX);
        goto err_finalize;
    }
    return 0;

err_finalize:
    PMIx_Finalize(NULL, 0);
    return -1;
}

static int fence(struct slc_err *e)
{
    bool collect = true;
    int seconds = FENCE_SECONDS;
    pmix_info_t info[2];

    PMIX_INFO_LOAD(&info[0], PMIX_COLLECT_DATA, &collect, PMIX_BOOL);
    PMIX_INFO_LOAD(&info[1], PMIX_TIMEOUT, &seconds, PMIX_INT);
    pmix_status_t rc = PMIx_Fence(NULL, 0, info, 2);
    PMIX_INFO_DESTRUCT(&info[0]);
    PMIX_INFO_DESTRUCT(&info[1]);
    return rc == PMIX_SUCCESS ? 0 : pmix_error(e, "PMIx_Fence", rc);
}

static int get_blob(struct slc_world *w, int rank, struct slc_err *e)
{
    pmix_proc_t proc;
    pmix_value_t *value = NULL;
    struct slc_blob *blob;
    int rc = 0;

    PMIX_LOAD_PROCID(&proc, self.nspace, (pmix_rank_t)rank);
    pmix_status_t status = PMIx_Get(&proc, BLOB_KEY, NULL, 0, &value);
    if (status != PMIX_SUCCESS)
        return pmix_error(e, "PMIx_Get of a rank's address", status);
    size_t len = value->type == PMIX_BYTE_OBJECT ? value->data.bo.size : 0;
    blob = malloc(len ? len : 1);
    if (!blob) {
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the address of rank %d", rank);
    } else {
        if (len)
            memcpy(blob, value->data.bo.bytes, len);
        if (len < sizeof(*blob) || blob->magic != SLC_BLOB_MAGIC ||
            len != sizeof(*blob) + blob->data_len + blob->beat_len)
            rc = slc_errf(e, SLC_EXIT_CONFIG, "rank %d runs another version of sluice",
                          rank);
    }
    w->peers[rank].blob = blob;
    PMIX_VALUE_RELEASE(value);
    return rc;
}

int slc_bootstrap_exchange(struct slc_world *w, const void *blob, size_t bytes,
                           struct slc_err *e)
{
    pmix_value_t value;

    PMIX_VALUE_CONSTRUCT(&value);
    value.type = PMIX_BYTE_OBJECT;
    value.data.bo.bytes = (char *)blob; /* PMIx copies */
    value.data.bo.size = bytes;
    pmix_status_t rc = PMIx_Put(PMIX_GLOBAL, BLOB_KEY, &value);
    if (rc == PMIX_SUCCESS)
        rc = PMIx_Commit();
    if (rc != PMIX_SUCCESS)
        return pmix_error(e, "PMIx_Put", rc);
    if (fence(e) < 0)
        return -1;
    for (int r = 0; r < w->size; r++)
        if (get_blob(w, r, e) < 0)
            return -1;
    return 0;
}

void slc_bootstrap_close(void)
{
    PMIx_Finalize(NULL, 0);
}
