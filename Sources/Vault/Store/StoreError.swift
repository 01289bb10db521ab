import Core

/// Why an object store could not do what was asked.
package enum StoreError: Failure, Equatable {
  case notFound(ObjectName)
  /// The name is taken by other content.
  case exists(ObjectName)
  /// A range reaches past the object's end.
  case pastEnd(ObjectName, sizeBytes: Int)
  /// The store itself found content that isn't what was written.
  case corrupt(ObjectName, String)
  case full(String)
  case readOnly(String)
  case permission(String)
  /// Not now: a network, a server, a device.
  case unavailable(String)
  /// The location can't be understood or isn't there.
  case location(String)
  /// It can't be deleted yet.
  case locked(ObjectName, ObjectLock)
  case cancelled

  package var report: Report {
    switch self {
    case .notFound(let name):
      Report("STORE-101", "\(name) is not in the store", retry: .never)
        .remedy("run `salvor vault check` to see what depends on it")
    case .exists(let name):
      Report("STORE-102", "\(name) is there already, with other content", retry: .never)
        .state("it was not touched")
        .remedy("find out what else writes to this store")
    case .pastEnd(let name, let size):
      Report("STORE-103", "\(name) ends after \(size) bytes, before what was asked for", retry: .never)
        .remedy("the object is truncated: run `salvor vault check`")
    case .corrupt(let name, let reason):
      Report("STORE-104", "\(name) is damaged in the store: \(reason)", retry: .never)
        .remedy("check the medium, and bring the object back from a second copy")
    case .full(let what):
      Report("STORE-105", "no space left: \(what)", retry: .afterChange)
        .remedy("make room in the store, then run the command again; nothing is half written")
    case .readOnly(let what):
      Report("STORE-106", "the store is read-only: \(what)", retry: .afterChange)
        .remedy("mount it writable, or choose another store")
    case .permission(let what):
      Report("STORE-107", "access refused: \(what)", retry: .afterChange)
        .remedy("run as a user with access, or mend the store's permissions")
    case .unavailable(let what):
      Report("STORE-108", "the store does not answer: \(what)", retry: .afterBackoff)
        .remedy("check the device or the network; the same command may be repeated")
    case .location(let what):
      Report("STORE-109", what, retry: .afterChange).remedy("check the repository's location in the catalog")
    case .locked(let name, let lock):
      Report("STORE-111", "\(name) is locked in the store, \(lock.reason)", retry: .afterChange)
        .state("it was not touched")
        .remedy("wait until then; a legal hold is taken off with `salvor vault lock release`")
    case .cancelled:
      Report("STORE-110", "cancelled", retry: .afterBackoff)
    }
  }
}
