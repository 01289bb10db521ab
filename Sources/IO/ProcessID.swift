#if canImport(Glibc)
  import Glibc
#endif

package enum ProcessID {
  package static var current: Int32 { getpid() }
}
