import Core
import Crypto
import Foundation
import S3Client
import Vault
import Web

/// Object Lock: what is put can't be taken away before its time, by nobody who has only the keys that put it.
///
/// Source: Amazon, "Locking objects with Object Lock", "PutObjectRetention", "PutObjectLegalHold".
extension S3ObjectStore {
  package var locksObjects: Bool { settings.lock != nil || settings.isHeld }

  /// Locks of the repository come and go; everything else is kept.
  func isLocked(_ name: ObjectName) -> Bool { locksObjects && name.kind != .lock }

  func lockUntil() -> Timestamp? {
    // In whole seconds, rounded up: S3 keeps no more.
    settings.lock.map { Timestamp(seconds: (time.now() + $0.duration).nanoseconds / 1_000_000_000 + 1) }
  }

  func lockHeaders(_ name: ObjectName) -> [(name: String, value: String)] {
    guard isLocked(name) else { return [] }
    var headers: [(name: String, value: String)] = []
    if let lock = settings.lock, let until = lockUntil() {
      headers.append(("x-amz-object-lock-mode", lock.mode.rawValue.uppercased()))
      headers.append(("x-amz-object-lock-retain-until-date", until.description))
    }
    if settings.isHeld { headers.append(("x-amz-object-lock-legal-hold", "ON")) }
    return headers
  }

  static func md5(_ bytes: [UInt8]) -> String { Data(Insecure.MD5.hash(data: bytes)).base64EncodedString() }

  static func noLocks(_ location: String) -> StoreError {
    .location("\(location): the bucket has no Object Lock; that is chosen when a bucket is made")
  }

  /// - Throws: `.location` if objects are to be locked and the bucket can't.
  func expectLocks() async throws(StoreError) {
    guard locksObjects else { return }
    let response = try await send(.get, key: "", query: [("object-lock", "")])
    if response.status == 403 { return }
    guard response.status == 200, (try? S3XML.parse(response.body))?["ObjectLockEnabled"]?.text == "Enabled" else {
      if response.status >= 500 { throw refusal(response, "the bucket's locks were not told") }
      throw Self.noLocks(location)
    }
  }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? {
    guard settings.trustsFirstVersions else { return nil }
    guard let version = try await versions(of: name).last(where: { !$0.isMarker }) else { throw .notFound(name) }
    return try await lock(on: name, version: version.id)
  }

  func lock(on name: ObjectName, version: String) async throws(StoreError) -> ObjectLock? {
    let response = try await send(.head, key: key(name), query: [("versionId", version)])
    guard response.status == 200 else { throw refusal(response, "the lock of \(name) was not told", about: name) }
    let lock = ObjectLock(
      mode: response.headers["x-amz-object-lock-mode"].flatMap { ObjectLock.Mode(rawValue: $0.lowercased()) },
      until: response.headers["x-amz-object-lock-retain-until-date"].flatMap { Timestamp($0) },
      isHeld: response.headers["x-amz-object-lock-legal-hold"]?.uppercased() == "ON")
    return lock == ObjectLock() ? nil : lock
  }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    guard settings.trustsFirstVersions else {
      throw .location("\(location): nothing is locked here; set SALVOR_S3_LOCK, such as to governance:30d")
    }
    guard let version = try await versions(of: name).last(where: { !$0.isMarker }) else { throw .notFound(name) }
    let (what, text): (String, String)
    switch change {
    case .extend(let until):
      guard let mode = settings.lock?.mode else {
        throw .location("\(location): no kind of lock is chosen; set SALVOR_S3_LOCK, such as to governance:30d")
      }
      if let lock = try await lock(on: name, version: version.id), let end = lock.until, end >= until { return }
      what = "retention"
      text =
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>\(mode.rawValue.uppercased())</Mode>"
        + "<RetainUntilDate>\(until)</RetainUntilDate></Retention>"
    case .hold, .release:
      what = "legal-hold"
      text =
        "<LegalHold xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>\(change == .hold ? "ON" : "OFF")</Status></LegalHold>"
    }
    let body = Array(text.utf8)
    let response = try await send(
      .put, key: key(name), query: [(what, ""), ("versionId", version.id)],
      headers: [("content-md5", Self.md5(body))], body: body)
    guard response.isSuccess else {
      if response.status == 400 || response.status == 501 { throw Self.noLocks(location) }
      throw refusal(response, "\(name) was not locked", about: name)
    }
    // There are servers that say yes and do nothing.
    let now = try await lock(on: name, version: version.id)
    let isDone =
      switch change {
      case .extend(let until): now?.until.map { $0 >= until } ?? false
      case .hold: now?.isHeld ?? false
      case .release: !(now?.isHeld ?? false)
      }
    guard isDone else { throw .location("\(location) said that \(name) is locked, and it is not") }
  }
}
