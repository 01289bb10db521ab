import Core
import DriverKit
import IO
import Synchronization

/// Putting a restored state in place, by difference, and taking it back.
///
/// A bucket can't be exchanged for another in one step: its users name it. So what differs is written key by key, inside the
/// server, and whoever uses it must be stopped meanwhile. Each phase begins with a write of the workspace's state, only after
/// what it needs is there, and does the same again when it is begun anew.
extension BucketDriver {
  private struct Ends {
    var live: BucketClient
    var workspace: Workspace
    var state: Workspace.State
  }

  private func ends(_ request: RestoreRequest) async throws(DriverError) -> (BucketClient, Workspace, Workspace.State?)
  {
    let live = try await client()
    let workspace = try workspace(request, live)
    let state = try await workspace.state()
    if let state, state.bucket != place.bucket || state.prefix != place.prefix {
      throw .engineFailed("restore \(request.id) is of \(state.bucket)/\(state.prefix), not of this place", log: "")
    }
    return (live, workspace, state)
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let (live, workspace, found) = try await ends(request)
    guard let found else { throw .engineFailed("nothing was restored beside \(live.location)", log: "") }
    var ends = Ends(live: live, workspace: workspace, state: found)
    if ends.state.phase == .swappingOut { try await goBack(&ends) }
    if ends.state.phase == .beside { try await plan(&ends) }
    if ends.state.phase == .swappingIn { try await apply(&ends) }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let (live, workspace, found) = try await ends(request)
    guard let found else {
      guard request.isSwapRecorded else { return }
      throw .system(
        .init(
          Report(
            "DRIVER-608",
            "the state that was to be kept in \(workspace.client.location)/\(workspace.prefix) can't be put back: it is gone",
            retry: .never
          ).state("nothing was changed: the bucket holds what was restored, or what was there before, key by key")
            .remedy("look at \(live.location); where it keeps versions, what was there before is among them")))
    }
    var ends = Ends(live: live, workspace: workspace, state: found)
    if ends.state.phase == .swapped { try await keepLate(ends) }
    if ends.state.phase == .swapped || ends.state.phase == .swappingIn {
      ends.state.phase = .swappingOut
      try await workspace.write(ends.state)
    }
    if ends.state.phase == .swappingOut { try await goBack(&ends) }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let (live, workspace, found) = try await ends(request)
    if let found {
      var ends = Ends(live: live, workspace: workspace, state: found)
      if found.phase == .swappingIn { try await apply(&ends) }
      if found.phase == .swappingOut { try await goBack(&ends) }
    }
    try refuseLeft(try await workspace.clear(nil, parallel: configuration.parallel))
  }

  // MARK: In

  /// Looks at what is live, keeps what will be replaced, and says so.
  private func plan(_ ends: inout Ends) async throws(DriverError) {
    let (live, workspace) = (ends.live, ends.workspace)
    for directory in ["kept", "plan", "after", "late", "late-names"] {
      try refuseLeft(try await workspace.clear(directory, parallel: configuration.parallel))
    }
    let entries = try await workspace.read(ObjectEntry.self, "manifest", parts: ends.state.manifestParts)
    if try await !live.exists() {
      // Said before it is done: a second try finds a bucket, and must know whose it is.
      ends.state.hasMadeBucket = true
      try await workspace.write(ends.state)
      try await live.create(hasLocks: ends.state.hadLocks)
    }
    if ends.state.hasMadeBucket, ends.state.wasVersioned, try await !live.isVersioned() {
      try await live.enableVersions()
    }
    ends.state.isVersioned = try await live.isVersioned()
    let (current, known) = try await survey(live, isVersioned: ends.state.isVersioned)
    // Somebody has used it since.
    if !known.isEmpty { ends.state.hasMadeBucket = false }
    var wanted: [ObjectKey: ObjectEntry] = [:]
    for entry in entries where entry.kind == .object { wanted[entry.objectKey] = entry }
    // Keys of which only what was before was captured.
    let past = Set(entries.map(\.objectKey)).subtracting(wanted.keys)
    var planned: [Workspace.Planned] = []
    for key in Set(wanted.keys).union(current.keys).union(past).sorted() {
      var plan = Workspace.Planned(key: key.text, action: .create)
      if let there = current[key] {
        plan.action = wanted[key] == nil ? .delete : .replace
        (plan.size, plan.etag, plan.modified) = (there.size, there.etag, there.modified)
        (plan.version, plan.storageClass) = (there.version, there.storageClass)
        if let entry = wanted[key], try await isCaptured(entry, there, live) { plan.action = .same }
      }
      plan.isNew = !known.contains(key)
      planned.append(plan)
    }
    ends.state.planParts = try await workspace.write(planned, as: "plan")
    if !ends.state.isVersioned {
      let replaced = planned.filter { $0.action == .replace || $0.action == .delete }
      try await sideBySide(replaced, configuration.parallel) { plan throws(DriverError) in
        try await workspace.client.copy(
          .init(bucket: live.bucket, key: whole(plan.objectKey), size: plan.size), to: workspace.kept(plan.objectKey),
          metadata: nil, more: [], limitBytes: configuration.copyLimitBytes,
          hasTags: configuration.takesTags)
      }
    }
    ends.state.phase = .swappingIn
    try await workspace.write(ends.state)
  }

  /// The live objects, and every key of which anything is there.
  private func survey(
    _ live: BucketClient, isVersioned: Bool
  ) async throws(DriverError) -> (current: [ObjectKey: Listed], known: Set<ObjectKey>) {
    var (current, known) = ([ObjectKey: Listed](), Set<ObjectKey>())
    guard try await live.exists() else { return (current, known) }
    if isVersioned {
      try await live.listVersions(place.prefix) { listed throws(DriverError) in
        guard let key = own(listed.key) else { return }
        known.insert(key)
        if listed.isLatest, !listed.isMarker { current[key] = listed }
      }
    } else {
      try await live.list(place.prefix) { listed throws(DriverError) in
        if let key = own(listed.key) { current[key] = listed }
      }
      known = Set(current.keys)
    }
    return (current, known)
  }

  /// Whether the live object is the very one that was captured, tags included.
  private func isCaptured(_ entry: ObjectEntry, _ there: Listed, _ live: BucketClient) async throws(DriverError) -> Bool
  {
    guard there.size == entry.size, there.etag == entry.etag, there.modified == entry.modified,
      entry.version == nil || entry.version == there.version
    else { return false }
    guard configuration.takesTags, let tags = try await live.tags(there.key) else { return true }
    return tags == entry.metadata.tags
  }

  private func apply(_ ends: inout Ends) async throws(DriverError) {
    let (live, workspace, state) = (ends.live, ends.workspace, ends.state)
    let entries = try await workspace.read(ObjectEntry.self, "manifest", parts: state.manifestParts)
    let planned = try await workspace.read(Workspace.Planned.self, "plan", parts: state.planParts)
    let byKey = Dictionary(grouping: entries, by: \.objectKey)
    try await sideBySide(planned.filter { $0.action != .same }, configuration.parallel) { plan throws(DriverError) in
      let key = plan.objectKey
      let all = byKey[key] ?? []
      if state.isVersioned, plan.isNew, all.contains(where: { $0.kind != .object }) {
        return try await replay(all, live, workspace)
      }
      if let entry = all.first(where: { $0.kind == .object }) {
        try await putBack(entry, live, workspace)
      } else if plan.action == .delete {
        try await live.delete(whole(key))
      }
    }
    let (after, _) = try await survey(live, isVersioned: state.isVersioned)
    let expected = Dictionary(
      entries.filter { $0.kind == .object }.map { ($0.objectKey, $0.size) }, uniquingKeysWith: { first, _ in first })
    for key in Set(after.keys).union(expected.keys) where after[key]?.size != expected[key] {
      throw .engineFailed(
        "\(key) at \(live.location) is not what was put there; is somebody still using the bucket?", log: "")
    }
    let lines = after.map { key, listed in
      Workspace.Planned(
        key: key.text, action: .same, size: listed.size, etag: listed.etag, modified: listed.modified,
        version: listed.version)
    }
    ends.state.afterParts = try await workspace.write(lines, as: "after")
    ends.state.phase = .swapped
    try await workspace.write(ends.state)
  }

  private func putBack(_ entry: ObjectEntry, _ live: BucketClient, _ workspace: Workspace) async throws(DriverError) {
    try await live.copy(
      .init(bucket: workspace.client.bucket, key: workspace.beside(entry.stageName), size: entry.size),
      to: whole(entry.objectKey), metadata: entry.metadata,
      more: liveHeaders(entry.metadata.storageClass), limitBytes: configuration.copyLimitBytes,
      hasTags: configuration.takesTags)
    if let lock = lockToRestore(entry.metadata.lock) { try await live.lock(whole(entry.objectKey), lock) }
  }

  /// All that a key ever held, in order, where nothing of it is left. What an earlier try made is not made again.
  private func replay(_ all: [ObjectEntry], _ live: BucketClient, _ workspace: Workspace) async throws(DriverError) {
    guard let first = all.first else { return }
    let key = whole(first.objectKey)
    var count = 0
    try await live.listVersions(key.text, isKey: true) { _ throws(DriverError) in count += 1 }
    for entry in all.dropFirst(count) {
      if entry.kind == .marker { try await live.delete(key) } else { try await putBack(entry, live, workspace) }
    }
  }

  private func liveHeaders(_ storageClass: String?) -> [(name: String, value: String)] {
    var headers = configuration.acl.map { [(name: "x-amz-acl", value: $0)] } ?? []
    if let storageClass, storageClass != "STANDARD", !storageClass.isEmpty {
      headers.append(("x-amz-storage-class", storageClass))
    }
    return headers
  }

  private func lockToRestore(_ lock: ObjectMetadata.Lock?) -> ObjectMetadata.Lock? {
    guard configuration.restoresLocks, var lock else { return nil }
    // What is over can't be asked for any more.
    if lock.until.map({ $0 <= environment.time.now() + .seconds(60) }) ?? true { (lock.mode, lock.until) = (nil, nil) }
    return lock.mode != nil || lock.isHeld == true ? lock : nil
  }

  // MARK: Out

  /// Copies what was written since the swap to where it stays until everything is given up.
  private func keepLate(_ ends: Ends) async throws(DriverError) {
    // Where versions are kept they stay; but not in a bucket that is removed.
    guard !ends.state.isVersioned || ends.state.hasMadeBucket else { return }
    let (live, workspace) = (ends.live, ends.workspace)
    var after: [ObjectKey: Workspace.Planned] = [:]
    for line in try await workspace.read(Workspace.Planned.self, "after", parts: ends.state.afterParts) {
      after[line.objectKey] = line
    }
    let (current, _) = try await survey(live, isVersioned: ends.state.isVersioned)
    let late = current.filter { key, listed in
      guard let before = after[key] else { return true }
      return before.etag != listed.etag || before.size != listed.size || before.modified != listed.modified
    }
    _ = try await workspace.write(
      late.keys.sorted().map { Workspace.Planned(key: $0.text, action: .replace) }, as: "late-names")
    try await sideBySide(late.map { ($0.key, $0.value.size) }, configuration.parallel) { item throws(DriverError) in
      try await workspace.client.copy(
        .init(bucket: live.bucket, key: whole(item.0), size: item.1), to: workspace.late(item.0), metadata: nil,
        more: [], limitBytes: configuration.copyLimitBytes,
        hasTags: configuration.takesTags)
    }
  }

  private func goBack(_ ends: inout Ends) async throws(DriverError) {
    let (live, workspace, state) = (ends.live, ends.workspace, ends.state)
    let planned = try await workspace.read(Workspace.Planned.self, "plan", parts: state.planParts)
    let entries = try await workspace.read(ObjectEntry.self, "manifest", parts: state.manifestParts)
    var captured: [ObjectKey: ObjectEntry] = [:]
    for entry in entries where entry.kind == .object { captured[entry.objectKey] = entry }
    let (current, _) = try await survey(live, isVersioned: state.isVersioned)
    var before: [ObjectKey: Workspace.Planned] = [:]
    for plan in planned where plan.action != .create { before[plan.objectKey] = plan }
    let known = before
    try await sideBySide(current.keys.filter { known[$0] == nil }, configuration.parallel) { key throws(DriverError) in
      try await live.delete(whole(key))
    }
    let stored = captured
    try await sideBySide(Array(known.values), configuration.parallel) { plan throws(DriverError) in
      let key = plan.objectKey
      if let there = current[key], there.size == plan.size, there.etag == plan.etag, there.modified == plan.modified,
        there.version == plan.version
      {
        return
      }
      if plan.action == .same, !state.isVersioned, let entry = stored[key] {
        return try await putBack(entry, live, workspace)
      }
      let source: BucketClient.CopySource =
        state.isVersioned
        ? .init(bucket: live.bucket, key: whole(key), version: plan.version, size: plan.size)
        : .init(bucket: workspace.client.bucket, key: workspace.kept(key), size: plan.size)
      try await live.copy(
        source, to: whole(key), metadata: nil, more: liveHeaders(plan.storageClass),
        limitBytes: configuration.copyLimitBytes,
        hasTags: configuration.takesTags)
    }
    if state.hasMadeBucket {
      try await removeMade(live, state)
    } else {
      let (now, _) = try await survey(live, isVersioned: state.isVersioned)
      for key in Set(now.keys).union(known.keys) where now[key]?.size != known[key]?.size {
        throw .engineFailed(
          "\(key) at \(live.location) is not what was put back; is somebody still using the bucket?", log: "")
      }
    }
    (ends.state.phase, ends.state.hasMadeBucket) = (.beside, false)
    try await workspace.write(ends.state)
  }

  /// There was no bucket, and there is none again; unless what it holds by now can't be taken away.
  private func removeMade(_ live: BucketClient, _ state: Workspace.State) async throws(DriverError) {
    guard try await live.exists(), place.prefix.isEmpty, configuration.workspace.bucket != place.bucket else { return }
    if state.isVersioned {
      var all: [Listed] = []
      try await live.listVersions("") { listed throws(DriverError) in all.append(listed) }
      try await sideBySide(all, configuration.parallel) { listed throws(DriverError) in
        try await live.delete(listed.key, version: listed.version)
      }
    }
    try await live.remove()
  }
}
