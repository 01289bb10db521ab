import Core

/// Why a file system could not be mounted.
package enum MountFailure: Failure {
  case notDirectory(String)
  case refused(String)

  package var report: Report {
    switch self {
    case .notDirectory(let path):
      Report("VAULT-218", "\(path) is no directory to mount on").remedy("make the directory first")
    case .refused(let path):
      Report("VAULT-220", "the system refused to mount on \(path)")
        .remedy("the line above says why: /dev/fuse and the package fuse3 have to be there, and the directory be yours")
    }
  }
}
