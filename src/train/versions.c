/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <stdio.h>

#include <H5public.h>
#include <jansson.h>
#include <ucp/api/ucp.h>

#include "train/job.h"

void slc_job_versions(const struct slc_job *j, char *text, size_t len)
{
    unsigned hmaj, hmin, hrel;
    char backend[256];

    H5get_libversion(&hmaj, &hmin, &hrel);
    slc_backend_describe(j->backend, backend, sizeof(backend));
    snprintf(text, len, "%s; UCX %s; HDF5 %u.%u.%u; %s", PACKAGE_STRING,
             ucp_get_version_string(), hmaj, hmin, hrel, backend);
}
