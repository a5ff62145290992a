# fish completion for impetusd
function __impetusd_complete
    set -l words (commandline -opc)
    set -l option (string match --regex -- '^-[^=]*=' (commandline -ct))
    for answer in (_IMPETUSD_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) $words[1] 2>/dev/null)
        set -l parts (string split \t -- $answer)
        switch $parts[1]
            case file
                printf '%s\n' "$option"(__fish_complete_path $parts[2])
            case dir
                printf '%s\n' "$option"(__fish_complete_directories $parts[2])
            case plain
                printf '%s\t%s\n' "$option$parts[2]" $parts[3]
        end
    end
end
complete --no-files --command impetusd --arguments '(__impetusd_complete)'
