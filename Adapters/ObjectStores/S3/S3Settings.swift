import Core
import Foundation
import Vault

/// How a bucket is used.
package struct S3Settings: Sendable {
  /// Kinds that aren't named get what the bucket gives.
  package var storageClasses: [ObjectKind: String] = [:]
  /// Objects above this go in parts.
  package var partThresholdBytes = 96 << 20
  /// At least 5 MiB, says S3, but for the last.
  package var partBytes = 16 << 20
  /// Entries of one page of a list.
  package var pageCount = 1000
  /// For a request without its bytes.
  package var timeLimit = Duration.seconds(60)
  /// How long nothing may move.
  package var stallLimit = Duration.seconds(60)

  /// What is put is locked so, all but locks.
  package var lock: (mode: ObjectLock.Mode, duration: Duration)?
  package var isHeld = false
  /// Reads the first version of every object, whatever was put over it later.
  package var trustsFirstVersions = false

  package init() {}

  /// - Parameter text: `STANDARD_IA` for packs alone, or `data=STANDARD_IA,index=STANDARD`.
  static func storageClasses(_ text: String) throws(StoreError) -> [ObjectKind: String] {
    var result: [ObjectKind: String] = [:]
    for part in text.split(separator: ",") {
      let words = part.split(separator: "=", maxSplits: 1).map { $0.trimmingCharacters(in: .whitespaces) }
      guard let value = words.last,
        value.utf8.allSatisfy({ (65...90).contains($0) || (48...57).contains($0) || $0 == 95 }),
        !value.isEmpty, let kind = words.count == 1 ? .data : ObjectKind(rawValue: words[0])
      else { throw .location("SALVOR_S3_STORAGE_CLASS is written STANDARD_IA, or data=STANDARD_IA,index=STANDARD") }
      result[kind] = value
    }
    return result
  }

  /// `SALVOR_S3_LOCK=governance:30d`, `SALVOR_S3_LEGAL_HOLD=1`, `SALVOR_S3_VERSIONS=first`.
  mutating func readLocks(_ environment: [String: String]) throws(StoreError) {
    func text(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
    if let text = text("SALVOR_S3_LOCK") {
      let parts = text.split(separator: ":", maxSplits: 1).map(String.init)
      guard parts.count == 2, let mode = ObjectLock.Mode(rawValue: parts[0]), let duration = Duration(text: parts[1]),
        duration >= .seconds(1), duration <= .seconds(100 * 366 * 86_400)
      else { throw .location("SALVOR_S3_LOCK is written governance:30d or compliance:30d") }
      lock = (mode, duration)
    }
    switch text("SALVOR_S3_LEGAL_HOLD") {
    case nil, "0": break
    case "1": isHeld = true
    default: throw .location("SALVOR_S3_LEGAL_HOLD is 1 or 0")
    }
    switch text("SALVOR_S3_VERSIONS") {
    case nil: trustsFirstVersions = trustsFirstVersions || lock != nil || isHeld
    case "first": trustsFirstVersions = true
    case "latest" where lock == nil && !isHeld: trustsFirstVersions = false
    default: throw .location("SALVOR_S3_VERSIONS is first or latest; what is locked is read by its first version")
    }
  }
}
