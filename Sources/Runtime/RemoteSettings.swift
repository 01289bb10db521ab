import Core
import ObjectStoreCache
import ObjectStoreLimits
import ObjectStoreREST
import ObjectStoreRetry
import Vault

/// How repositories on a network are used, from the environment: limits, and where what is read often is kept. Rates hold for
/// directories too, which may be somebody's network.
///
/// `SALVOR_LIMIT_UPLOAD` and `SALVOR_LIMIT_DOWNLOAD` are KiB per second, as restic's options are; `SALVOR_CONNECTIONS` is a
/// number of calls; `RESTIC_CACHE_DIR` is a directory; `SALVOR_NO_CACHE=1` does without.
package struct RemoteSettings: Sendable {
  var limits = StoreLimits()
  /// `nil`: nothing is kept.
  var cacheDirectory: String?

  package static let uploadVariable = "SALVOR_LIMIT_UPLOAD"
  package static let downloadVariable = "SALVOR_LIMIT_DOWNLOAD"
  package static let connectionsVariable = "SALVOR_CONNECTIONS"
  package static let noCacheVariable = "SALVOR_NO_CACHE"

  /// restic's extended options, and the variables that say the same.
  package static let extendedOptions = [
    "rclone.program": RcloneObjectStoreFactory.programVariable,
    "rclone.args": RcloneObjectStoreFactory.argumentsVariable,
    "rclone.timeout": RcloneObjectStoreFactory.timeoutVariable, "rclone.connections": connectionsVariable,
    "rest.connections": connectionsVariable, "s3.connections": connectionsVariable, "s3.region": "AWS_REGION",
    "s3.storage-class": "SALVOR_S3_STORAGE_CLASS", "s3.bucket-lookup": "SALVOR_S3_LOOKUP",
  ]

  init(_ host: Machine) throws(RegistryError) {
    func text(_ name: String) -> String? { host.environment[name].flatMap { $0.isEmpty ? nil : $0 } }
    func number(_ name: String) throws(RegistryError) -> Int? {
      guard let text = text(name) else { return nil }
      guard let value = Int(text), (1...1 << 30).contains(value) else { throw .badVariable(name) }
      return value
    }
    limits.connections = try number(Self.connectionsVariable) ?? 8
    limits.uploadBytesPerSecond = try number(Self.uploadVariable).map { $0 << 10 }
    limits.downloadBytesPerSecond = try number(Self.downloadVariable).map { $0 << 10 }
    guard text(Self.noCacheVariable) == nil else { return }
    cacheDirectory =
      text("RESTIC_CACHE_DIR").map { "\($0)/salvor" } ?? text("XDG_CACHE_HOME").map { "\($0)/salvor" }
      ?? text("HOME").map { "\($0)/.cache/salvor" }
  }

  /// A store of this machine.
  func limiting(_ store: any ObjectStore, _ host: Machine) -> any ObjectStore {
    guard limits.uploadBytesPerSecond != nil || limits.downloadBytesPerSecond != nil else { return store }
    return LimitedObjectStore(store, limits, time: host.time)
  }

  func around(_ store: any ObjectStore, _ host: Machine) -> any ObjectStore {
    let limited = LimitedObjectStore(store, limits, time: host.time)
    let retried = RetryObjectStore(limited, time: host.time, randomness: host.randomness, log: host.log)
    guard let cacheDirectory else { return retried }
    return CachedObjectStore(retried, directory: cacheDirectory, pool: host.pool)
  }
}
