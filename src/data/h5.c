/* SPDX-License-Identifier: Apache-2.0 */
#include "data/h5.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

void slc_h5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

hid_t slc_h5_file_access(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);

#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && H5_VERS_MINOR == 10)
    H5Pset_file_locking(access, false, true);
#endif
    return access;
}

static herr_t keep_innermost(unsigned n, const H5E_error2_t *err, void *text)
{
    (void)n;
    snprintf(text, 200, "%s", err->desc);
    return 0;
}

int slc_h5_failed(const char *path, const char *what, int code, struct slc_err *e)
{
    char words[200] = "no details";

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_innermost, words);
    return slc_errf(e, code, "%s: %s: %s", path, what, words);
}

static int put(hid_t at, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int rc = a >= 0 && H5Awrite(a, type, value) >= 0 ? 0 : -1;

    if (a >= 0)
        H5Aclose(a);
    H5Sclose(space);
    return rc;
}

int slc_h5_put_text(hid_t at, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);

    H5Tset_size(type, strlen(text) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    int rc = put(at, name, type, text);
    H5Tclose(type);
    return rc;
}

int slc_h5_put_int(hid_t at, const char *name, int64_t v)
{
    return put(at, name, H5T_STD_I64LE, &v);
}

int slc_h5_put_real(hid_t at, const char *name, double v)
{
    return put(at, name, H5T_IEEE_F64LE, &v);
}

hid_t slc_h5_create_array(hid_t at, const char *name, hid_t type, int64_t n)
{
    hsize_t dim = (hsize_t)n;
    hid_t space = H5Screate_simple(1, &dim, NULL);
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);

    H5Pset_layout(how, H5D_CONTIGUOUS);
    H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(how, false); /* the same content gives the same bytes */
    hid_t d = H5Dcreate2(at, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    H5Sclose(space);
    return d;
}

static int bad(const char *path, const char *name, const char *what, struct slc_err *e)
{
    return slc_errf(e, SLC_EXIT_INPUT, "%s: %s %s; make the file again with sluice data build",
                    path, name, what);
}

int slc_h5_get_text(hid_t at, const char *name, char *text, size_t cap, const char *path,
                    struct slc_err *e)
{
    hid_t a = H5Aexists(at, name) > 0 ? H5Aopen(at, name, H5P_DEFAULT) : -1;

    if (a < 0)
        return bad(path, name, "(attribute) is missing", e);
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    int rc = -1;
    if (H5Sget_simple_extent_type(space) != H5S_SCALAR ||
        H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
        H5Tget_size(type) >= cap)
        bad(path, name, "(attribute) is not a short text", e);
    else if (H5Aread(a, type, text) < 0)
        slc_h5_failed(path, name, SLC_EXIT_INPUT, e);
    else {
        text[H5Tget_size(type)] = '\0';
        rc = 0;
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}

int slc_h5_get_int(hid_t at, const char *name, int64_t *v, const char *path,
                   struct slc_err *e)
{
    hid_t a = H5Aexists(at, name) > 0 ? H5Aopen(at, name, H5P_DEFAULT) : -1;

    if (a < 0)
        return bad(path, name, "(attribute) is missing", e);
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    int rc = -1;
    if (H5Sget_simple_extent_type(space) != H5S_SCALAR || H5Tequal(type, H5T_STD_I64LE) <= 0)
        bad(path, name, "(attribute) is not one int64", e);
    else if (H5Aread(a, H5T_NATIVE_INT64, v) < 0)
        slc_h5_failed(path, name, SLC_EXIT_INPUT, e);
    else
        rc = 0;
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}

int slc_h5_has(hid_t at, const char *name)
{
    H5L_info_t info;

    return H5Lexists(at, name, H5P_DEFAULT) > 0 &&
           H5Lget_info(at, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

static int is_plain(hid_t d, hid_t type, int width)
{
    hid_t want = width == 1   ? H5T_STD_U8LE
                 : width == 2 ? H5T_STD_U16LE
                 : width == 4 ? H5T_STD_I32LE
                              : H5T_STD_I64LE;
    hid_t how = H5Dget_create_plist(d);
    int ok = H5Tequal(type, want) > 0 && H5Pget_layout(how) == H5D_CONTIGUOUS &&
             H5Pget_external_count(how) == 0 && H5Pget_nfilters(how) == 0;

    H5Pclose(how);
    return ok;
}

int slc_h5_get_array(hid_t at, const char *name, int width, int64_t file_size,
                     struct slc_h5_array *out, const char *path, struct slc_err *e)
{
    H5O_info_t info;

    if (!slc_h5_has(at, name))
        return bad(path, name, "is missing", e);
    if (H5Oget_info_by_name(at, name, &info, H5P_DEFAULT) < 0)
        return slc_h5_failed(path, name, SLC_EXIT_INPUT, e);
    if (info.type != H5O_TYPE_DATASET)
        return bad(path, name, "is not a dataset", e);
    hid_t d = H5Dopen2(at, name, H5P_DEFAULT);
    if (d < 0)
        return slc_h5_failed(path, name, SLC_EXIT_INPUT, e);
    hid_t type = H5Dget_type(d), space = H5Dget_space(d);
    haddr_t offset = H5Dget_offset(d);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    int rc = 0;
    if (!is_plain(d, type, width) || H5Sget_simple_extent_ndims(space) != 1)
        rc = bad(path, name, "is not a plain list of integers of the expected type", e);
    else if (n > 0 && (offset == HADDR_UNDEF || offset > (haddr_t)file_size ||
                       (haddr_t)n > ((haddr_t)file_size - offset) / (haddr_t)width))
        rc = bad(path, name, "does not fit into the file", e);
    else
        *out = (struct slc_h5_array){n > 0 ? (int64_t)offset : 0, n};
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(d);
    return rc;
}
