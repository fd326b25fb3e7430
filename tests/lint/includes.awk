# SPDX-License-Identifier: Apache-2.0
# awk -f includes.awk FILES, from the top of the source tree: prints one line for each
# #include "folder/..." that goes against the order of the house, and exits 1 if any.
#   src/X may include src/Y for Y at or above X in the order;
#   kernels/Z may include base/, backend/ and kernels/Z.
BEGIN {
    n = split("base config backend comm moe model data optim store train cmd", order, " ")
    for (i = 1; i <= n; i++)
        place[order[i]] = i
}
/^[ \t]*#[ \t]*include[ \t]+"/ {
    split($0, quoted, "\"")
    path = quoted[2]
    parts = split(FILENAME, file, "/")
    if (path == "config.h" || path !~ /\//)
        next
    split(path, target, "/")
    to = target[1] == "src" ? target[2] : target[1]
    if (to == "..")
        wrong("leaves its folder; write it as \"folder/file.h\"")
    else if (file[1] == "src" && to in place) {
        if (place[to] > place[file[2]])
            wrong(file[2] " is above " to " in the order of the house")
    } else if (file[1] == "src")
        wrong("is in no folder of src/")
    else if (file[1] == "kernels" && target[1] == "kernels") {
        if (target[2] != file[2])
            wrong("is another backend's")
    } else if (file[1] == "kernels" && to != "base" && to != "backend" && to != file[2])
        wrong("kernels use base/, backend/ and their own folder only")
}
function wrong(why) {
    printf "%s:%d: \"%s\": %s\n", FILENAME, FNR, path, why
    bad = 1
}
END { exit bad }
