package faults

import "syscall"

// mount makes a disk of that size at dir.
func mount(dir, size string) error {
	return syscall.Mount("onceshop", dir, "tmpfs", 0, "mode=0755,size="+size)
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
