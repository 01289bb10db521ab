import Core

#if canImport(Glibc)
  import Glibc
#endif

/// A system call that failed.
package struct SystemFailure: Failure {
  package let number: Int32
  /// What was tried, such as `open`.
  package let call: String
  package let path: String?

  package init(_ call: String, path: String? = nil, number: Int32 = errno) {
    (self.call, self.path, self.number) = (call, path, number)
  }

  package var message: String { String(cString: strerror(number)) }

  package var report: Report {
    let place = path.map { " \($0)" } ?? ""
    let base = "\(call)\(place): \(message.lowercased())"
    return switch number {
    case ENOSPC, EDQUOT:
      Report("IO-101", base, retry: .afterChange).remedy("make room on that file system, then run the command again")
    case EROFS:
      Report("IO-102", base, retry: .afterChange).remedy(
        "the target is read-only: choose another, or mount it writable")
    case EACCES, EPERM:
      Report("IO-103", base, retry: .afterChange).remedy("run as a user with access, or mend the permissions")
    case ENOENT:
      Report("IO-104", base, retry: .afterChange).remedy("check the path")
    case EIO:
      Report("IO-105", base, retry: .never).remedy("the device reports an error: check the disk before trusting it")
    case EMFILE, ENFILE:
      Report("IO-106", base, retry: .afterBackoff).remedy("raise the limit on open files (ulimit -n)")
    default:
      Report("IO-100", base, retry: .afterBackoff)
    }
  }
}

/// Repeats a call that a signal interrupted.
@inline(__always)
package func retryingInterrupts<T: SignedInteger>(_ body: () -> T) -> T {
  while true {
    let result = body()
    if result != -1 || errno != EINTR { return result }
  }
}
