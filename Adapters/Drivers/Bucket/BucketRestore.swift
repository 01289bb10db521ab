import Core
import DriverKit
import IO
import Synchronization
import Web

extension BucketDriver {
  func workspace(_ request: RestoreRequest, _ live: BucketClient) throws(DriverError) -> Workspace {
    guard !request.id.isEmpty, request.id.utf8.count <= 200,
      request.id.utf8.allSatisfy({ $0 > 32 && $0 < 127 && $0 != 47 })
    else { throw .engineFailed("a restore can't be called '\(request.id.prefix(200))'", log: "") }
    return Workspace(
      client: workspaceClient(live), prefix: "\(configuration.workspace.prefix)\(configuration.store)-\(request.id)/")
  }

  /// An object of the place that is never there.
  private var probe: ObjectKey { ObjectKey("\(place.prefix)salvor-probe") }

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    var findings: [Finding] = []
    func add(_ report: Report) { findings.append(Finding(report)) }
    do throws(DriverError) {
      let live = try await client()
      let workspace = try workspace(request, live)
      for (client, key, what) in [
        (live, probe, "the bucket"), (workspace.client, workspace.key("salvor-probe"), "the workspace"),
      ] where try await client.exists() {
        if try await !client.mayPut(key) {
          add(
            Report("DRIVER-643", "\(client.location) can't be written to: \(what) refuses \(key)")
              .remedy("give the restore a key with the policy of docs/drivers/bucket.md"))
        }
      }
      if try await workspace.client.exists(), try await workspace.client.locks().hasDefault {
        add(
          Report(
            "DRIVER-644",
            "\(workspace.client.location) locks whatever is put there, so what a restore leaves could not be removed",
            retry: .afterChange
          ).remedy("name a 'workspace' in a bucket without a default retention"))
      }
      if request.capture.facts["layout"] != "1" {
        add(DriverError.unsupported("this copy was laid out by another version of the driver").report)
      }
    } catch {
      if case .cancelled = error { throw error }
      add(error.report)
    }
    return findings
  }

  // MARK: Beside

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let live = try await client()
    let workspace = try workspace(request, live)
    if let state = try await workspace.state() {
      guard state.phase == .beside else {
        throw .engineFailed(
          "restore \(request.id) has already been swapped in; undo the swap or release it first", log: "")
      }
      if state.restored.position == request.capture.position { return state.restored }
      try await refuseLeft(workspace.clear(nil, parallel: configuration.parallel))
    }
    if try await !workspace.client.exists() { try await workspace.client.create(hasLocks: false) }
    let entries = try await Manifest.read(request.source)
    guard request.capture.facts["objects"] == "\(entries.count { $0.kind == .object })" else {
      throw .corrupt("the manifest names other objects than were captured")
    }
    let parts = try await workspace.write(entries, as: "manifest")
    let proved = Mutex<[String: ObjectEntry]>([:])
    let done = Mutex<Int64>(0)
    let there = try await workspace.names("beside")
    try await sideBySide(entries.filter { $0.kind != .marker }, configuration.parallel) { entry throws(DriverError) in
      let place = workspace.beside(entry.stageName)
      var found: ObjectEntry?
      // What an earlier try left may be used, if it is what it should be.
      if there[entry.stageName] == entry.size {
        found = try await self.readBack(entry, at: place, workspace.client)
        if found.map({ !Self.isSame($0, entry) }) ?? true { found = nil }
      }
      if found == nil {
        try await self.stage(entry, from: request.source, at: place, workspace.client)
        found = try await self.readBack(entry, at: place, workspace.client)
      }
      guard let found else { throw .corrupt("\(place) at \(workspace.client.location) is gone again") }
      guard Self.isSame(found, entry) else {
        throw .corrupt(
          "\(entry.objectKey) was stored at \(workspace.client.location), and is given back as another: "
            + Self.difference(found, entry))
      }
      proved.withLock { $0[entry.stageName] = found }
      request.progress(
        done.withLock { done in
          done += entry.size
          return done
        })
    }
    let all = proved.withLock { $0 }
    let digest = ObjectEntry.digest(entries.map { $0.kind == .marker ? $0 : all[$0.stageName] ?? $0 })
    if let expected = request.capture.contentDigest, digest != expected {
      throw .corrupt("the restored objects are not those that were captured: \(digest.differences(from: expected))")
    }
    let size = entries.reduce(Int64(0)) { $0 + $1.size }
    let objects = digest.parts["objects"]?.count ?? 0
    var proofs = ["\(objects) objects, each read back with its metadata"]
    if let versions = digest.parts["versions"]?.count { proofs.append("\(versions) earlier versions and markers") }
    let state = Workspace.State(
      phase: .beside,
      restored: RestoredState(position: request.capture.position, sizeBytes: max(size, 1), proofs: proofs),
      digest: digest, manifestParts: parts, wasVersioned: request.capture.facts["versioning"] == "enabled",
      hadLocks: request.capture.facts["objectLock"] == "enabled", bucket: place.bucket, prefix: place.prefix)
    try await workspace.write(state)
    return state.restored
  }

  /// Sends an object's content to the workspace, checked on the way.
  private func stage(
    _ entry: ObjectEntry, from source: any TreeSource, at key: ObjectKey, _ client: BucketClient
  ) async throws(DriverError) {
    let path = TreePath(entry.path)
    var headers = entry.metadata.requestHeaders
    if configuration.takesTags { headers += BucketClient.tagging(entry.metadata.tags) }
    func refuse(_ error: AnyFailure) -> DriverError { error.isCancellation ? .cancelled : .system(.init(error.report)) }
    if entry.size <= configuration.partThresholdBytes {
      let bytes: [UInt8]
      do throws(AnyFailure) { bytes = try await source.contents(of: path, limitBytes: Int(entry.size)) } catch {
        throw refuse(error)
      }
      let digest = await environment.pool.run { Digest.of(bytes) }
      guard digest == entry.sha256 else { throw .corrupt("\(entry.objectKey) in the copy is not what was captured") }
      try await client.put(key, bytes, headers: headers)
      return
    }
    let part = max(16 << 20, (entry.size + 9999) / 10_000)
    let id = try await client.beginUpload(key, headers: headers)
    do throws(DriverError) {
      var (digest, tags, offset) = (RunningDigest(), [String](), Int64(0))
      while offset < entry.size {
        let end = min(entry.size, offset + part)
        let bytes: [UInt8]
        do throws(AnyFailure) { bytes = try await source.contents(of: path, range: offset..<end) } catch {
          throw refuse(error)
        }
        guard Int64(bytes.count) == end - offset else {
          throw .corrupt("\(entry.objectKey) in the copy is shorter than what was captured")
        }
        digest.update(bytes)
        tags.append(try await client.putPart(key, id, tags.count + 1, bytes))
        offset = end
      }
      guard digest.finish() == entry.sha256 else {
        throw .corrupt("\(entry.objectKey) in the copy is not what was captured")
      }
      try await client.completeUpload(key, id, tags)
    } catch {
      await client.abortUpload(key, id)
      throw error
    }
  }

  /// What the server gives for an object, as an entry of a manifest would say it.
  ///
  /// - Returns: `nil` if it is not there.
  func readBack(_ entry: ObjectEntry, at key: ObjectKey, _ client: BucketClient) async throws(DriverError)
    -> ObjectEntry?
  {
    var found = entry
    if entry.size <= configuration.partThresholdBytes {
      let response = try await client.send(.get, key, limitBytes: Int(configuration.partThresholdBytes) + 1)
      if response.status == 404 { return nil }
      guard response.isSuccess else { throw client.refusal(response, "\(key) was not given", needs: "s3:GetObject") }
      let bytes = response.body
      found.sha256 = await environment.pool.run { Digest.of(bytes) }
      (found.size, found.metadata) = (Int64(bytes.count), ObjectMetadata(response))
    } else {
      guard let head = try await client.head(key) else { return nil }
      found.metadata = ObjectMetadata(head)
      var (digest, offset) = (RunningDigest(), Int64(0))
      while offset < entry.size {
        let range = Int(offset)..<Int(min(entry.size, offset + 16 << 20))
        let response = try await client.send(
          .get, key, headers: [("range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)")], limitBytes: range.count)
        guard case .bytes(let bytes) = RangeAnswer(response, asked: range) else {
          throw client.refusal(response, "\(key) was not given whole", needs: "s3:GetObject")
        }
        digest.update(bytes)
        offset = Int64(range.upperBound)
      }
      guard head.headers["content-length"] == "\(entry.size)" else {
        throw .corrupt("\(key) at \(client.location) has another size than was stored")
      }
      found.sha256 = digest.finish()
    }
    found.metadata.tags = entry.metadata.tags
    if configuration.takesTags, let tags = try await client.tags(key) { found.metadata.tags = tags }
    return found
  }

  static func isSame(_ a: ObjectEntry, _ b: ObjectEntry) -> Bool {
    a.size == b.size && a.sha256 == b.sha256 && a.metadata.digestText == b.metadata.digestText
  }

  private static func difference(_ found: ObjectEntry, _ entry: ObjectEntry) -> String {
    if found.size != entry.size { return "\(found.size) bytes, not \(entry.size)" }
    if found.sha256 != entry.sha256 { return "its content has another digest" }
    if found.metadata.headers != entry.metadata.headers {
      return
        "\(found.metadata.headers.sorted { $0.key < $1.key }), not \(entry.metadata.headers.sorted { $0.key < $1.key })"
    }
    return found.metadata.tags == entry.metadata.tags ? "other metadata of the user's" : "other tags"
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    guard let state = try await workspace(request, try await client()).state() else {
      throw .engineFailed("nothing lies beside \(place.bucket)", log: "")
    }
    return state.digest
  }

  func refuseLeft(_ names: [String]) throws(DriverError) {
    guard let first = names.first else { return }
    throw .system(
      .init(
        Report(
          "DRIVER-642", "\(names.count) objects of the workspace can't be removed, such as \(first)",
          retry: .afterChange
        ).state("everything else of it is gone")
          .remedy("they are locked, or the key may not remove them: wait for the retention's end, or use another key")))
  }
}
