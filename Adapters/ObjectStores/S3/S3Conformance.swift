import Core
import S3Client
import Vault
import Web

/// Tries out what S3 has beyond the port; each trial on a key of its own.
extension S3ObjectStore: ExaminableStore {
  /// How long a trial's lock lasts.
  private static let lockSeconds: Int64 = 15

  package func examine(_ randomness: any Randomness) async throws(StoreError) -> [StoreFinding] {
    func name() -> ObjectName { ObjectName(.data, Digest.of(randomness.bytes(32))) }
    return [try await tryConditions(name()), try await tryVersions(name()), try await tryLock(name())]
  }

  private func write(
    _ name: ObjectName, _ text: String, _ headers: [(name: String, value: String)] = []
  ) async throws(StoreError) -> WebResponse {
    let body = Array(text.utf8)
    return try await send(
      .put, key: key(name), headers: headers + [("content-md5", Self.md5(body))], body: body)
  }

  private func read(_ name: ObjectName, version: String? = nil) async throws(StoreError) -> String? {
    let query = version.map { [(name: "versionId", value: $0)] } ?? []
    let response = try await send(.get, key: key(name), query: query)
    return response.status == 200 ? String(decoding: response.body, as: UTF8.self) : nil
  }

  private func tryConditions(_ name: ObjectName) async throws(StoreError) -> StoreFinding {
    let condition = [(name: "if-none-match", value: "*")]
    let first = try await write(name, "first", condition)
    guard first.isSuccess else {
      return StoreFinding(.conditionalWrite, .absent, "the server refuses If-None-Match (status \(first.status))")
    }
    let second = try await write(name, "second", condition)
    let content = try await read(name)
    await sweep(name)
    if second.status == 412, content == "first" {
      return StoreFinding(.conditionalWrite, .verified, "If-None-Match: * refused what was there already")
    }
    if second.isSuccess {
      return StoreFinding(.conditionalWrite, .absent, "If-None-Match: * was taken, and what was there was replaced")
    }
    return StoreFinding(
      .conditionalWrite, content == "first" ? .claimed : .absent, "If-None-Match: * gave status \(second.status)")
  }

  private func tryVersions(_ name: ObjectName) async throws(StoreError) -> StoreFinding {
    let asked = try await send(.get, key: "", query: [("versioning", "")])
    let isClaimed = asked.status == 200 && (try? S3XML.parse(asked.body))?["Status"]?.text == "Enabled"
    for text in ["first", "second"] {
      let response = try await write(name, text)
      guard response.isSuccess else { throw refusal(response, "\(name) was not stored", about: name) }
    }
    _ = try await send(.delete, key: key(name))
    let versions = (try? await versions(of: name)) ?? []
    var kept = 0
    for version in versions where !version.isMarker {
      if let text = try await read(name, version: version.id), ["first", "second"].contains(text) { kept += 1 }
    }
    let isFirst: Bool
    if let last = versions.last, !last.isMarker {
      isFirst = try await read(name, version: last.id) == "first"
    } else {
      isFirst = false
    }
    await sweep(name)
    if kept == 2, isFirst {
      return StoreFinding(
        .versions, .verified, "what was replaced and deleted could be read, the first one last in the list")
    }
    return StoreFinding(
      .versions, isClaimed ? .claimed : .absent,
      isClaimed ? "the bucket says that it keeps versions; \(kept) of 2 could be read" : "the bucket keeps none")
  }

  private func tryLock(_ name: ObjectName) async throws(StoreError) -> StoreFinding {
    let asked = try await send(.get, key: "", query: [("object-lock", "")])
    let isEnabled = asked.status == 200 && (try? S3XML.parse(asked.body))?["ObjectLockEnabled"]?.text == "Enabled"
    let until = Timestamp(seconds: time.now().nanoseconds / 1_000_000_000 + Self.lockSeconds)
    let made = try await write(
      name, "locked",
      [("x-amz-object-lock-mode", "GOVERNANCE"), ("x-amz-object-lock-retain-until-date", until.description)])
    guard made.isSuccess else {
      return StoreFinding(
        .objectLock, isEnabled ? .claimed : .absent,
        isEnabled
          ? "the bucket says that it locks, and refused to (status \(made.status))"
          : "the bucket refuses locks (status \(made.status))")
    }
    let version = made.headers["x-amz-version-id"]
    let query = version.map { [(name: "versionId", value: $0)] } ?? []
    let shown = try await send(.head, key: key(name), query: query).headers["x-amz-object-lock-mode"]
    let deleted = try await send(.delete, key: key(name), query: query)
    let isThere = try await read(name, version: version) == "locked"
    await sweep(name)
    if version != nil, deleted.status == 403, isThere {
      return StoreFinding(.objectLock, .verified, "a locked object could not be deleted")
    }
    return StoreFinding(
      .objectLock, .claimed,
      "the server took a lock\(shown == nil ? " and doesn't show it" : ""), and "
        + (isThere ? "said that the object was deleted" : "the object could be deleted"))
  }

  /// Removes every version of a trial's object: at once where the right to end a lock is had, or when its time is over.
  private func sweep(_ name: ObjectName) async {
    for _ in 0..<Self.lockSeconds * 2 {
      let versions = (try? await versions(of: name)) ?? []
      guard !versions.isEmpty else { break }
      for version in versions {
        for headers in [[("x-amz-bypass-governance-retention", "true")], []] as [[(name: String, value: String)]] {
          let query = [(name: "versionId", value: version.id)]
          if let gone = try? await send(.delete, key: key(name), query: query, headers: headers), gone.isSuccess {
            break
          }
        }
      }
      guard (try? await self.versions(of: name))?.isEmpty == false else { break }
      do { try await time.sleep(for: .seconds(1)) } catch { return }
    }
    _ = try? await send(.delete, key: key(name))
    for version in (try? await versions(of: name)) ?? [] {
      _ = try? await send(.delete, key: key(name), query: [("versionId", version.id)])
    }
  }
}
