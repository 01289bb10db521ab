import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A copy of what changed, made whole by what an earlier copy has.
///
/// What had changed by the earlier copy's checkpoint was on disk before its first page was read. A page on disk whose last change
/// ends no later is therefore what the earlier copy read there, if it is the same server's, and the same tablespace's.
struct Increment: Sendable {
  var earlier: any EarlierTree
  /// Of the earlier copy.
  var since: UInt64
  var partBytes: Int
  /// Where the earlier copy has each tablespace that is still the same.
  var spaces: [UInt32: TreePath]
  /// Tablespaces that the earlier copy has not, and of which every page will come.
  var whole: Set<UInt32>
  /// What the server used before this copy was begun.
  var used: UsedSpaces
  var driver: MariaDBDriver

  /// A file of which the copy in scratch has only the parts that are new, one after the other.
  struct Settled: Sendable {
    var size: Int64
    /// All of them, in order; `nil` for those in scratch.
    var parts: [Digest?]
    var space: UInt32
    var pageBytes: Int
  }

  /// A file that is put together.
  private struct Plan: Sendable {
    var path: String
    var target: TreePath
    var delta: PageDelta
    var size: Int64
    var parts: [Digest?]
    /// Where in scratch a part that is missing goes, and what of the earlier copy it is made of, if anything.
    var missing: [Int: (offset: Int64, from: Digest?)]
    var missingBytes: Int64
  }

  /// Turns what mariadb-backup wrote into files that a sink can take.
  ///
  /// - Parameters:
  ///   - directory: The copy, whose deltas are replaced.
  ///   - now: What the server uses now that it is made.
  /// - Throws: A reason to read everything, before the sink has got anything.
  func settle(_ directory: String, now: UsedSpaces) async throws(DriverError) -> [TreePath: Settled] {
    let found = try await driver.blocking { () throws(DriverError) in try Self.deltas(in: directory, at: "data") }
    var settled: [TreePath: Settled] = [:]
    var numbers: Set<UInt32> = []
    for (path, target) in found {
      try throwIfCancelled()
      let delta = try await driver.blocking { () throws(DriverError) in try PageDelta(of: path) }
      guard delta.space == 0 || numbers.insert(delta.space).inserted else {
        throw .unsupported("two files of the copy say that they are tablespace \(delta.space)")
      }
      if let before = used.tables[delta.space], let table = now.tables[delta.space], table != before {
        throw .unsupported("\(target) was exchanged for another while it was copied")
      }
      let plan = try await plan(path, target, delta)
      try await write(plan)
      settled[target] = Settled(
        size: plan.size, parts: plan.parts, space: delta.space, pageBytes: delta.pageBytes)
    }
    try await examine(settled)
    try await driver.blocking { () throws(DriverError) in try Self.describeAsWhole(directory) }
    return settled
  }

  /// Data files of which there is a delta, and where they go. Blocks.
  private static func deltas(in directory: String, at target: TreePath) throws(DriverError) -> [(String, TreePath)] {
    let names: [FileName]
    do throws(SystemFailure) { names = try Files.names(in: directory).sorted() } catch { throw DriverError(error) }
    var result: [(String, TreePath)] = []
    for name in names {
      let path = "\(directory)/\(name.lossyText)"
      if Files.isDirectory(path) {
        result += try deltas(in: path, at: target.appending(name))
      } else if path.hasSuffix(PageDelta.suffix) {
        let own = String(path.dropLast(PageDelta.suffix.count))
        result.append((own, target.appending(FileName(Files.last(of: own)))))
      }
    }
    return result
  }

  // MARK: One file

  private func plan(_ path: String, _ target: TreePath, _ delta: PageDelta) async throws(DriverError) -> Plan {
    let pageBytes = Int64(delta.pageBytes)
    guard partBytes % delta.pageBytes == 0 else { throw .unsupported("\(target) has pages of \(pageBytes) bytes") }
    let name = target.last?.lossyText ?? ""
    // The system tablespace can have several files, which have one number.
    let place = delta.space == 0 ? target : spaces[delta.space]
    var found: EarlierFile?
    if let place {
      do throws(AnyFailure) { found = try await earlier.file(place, cutEvery: partBytes) } catch {
        throw error.isCancellation ? .cancelled : .sink(error)
      }
      guard found != nil || delta.space == 0 else {
        throw .unsupported("the newest copy in the repository does not have \(place) whole")
      }
    }
    let live = driver.livePath(of: target)
    let lastPage = delta.pages.last.map { (Int64($0.number) + 1) * pageBytes } ?? 0
    let said = try await driver.blocking { () throws(DriverError) in try Self.saidBytes(path, delta) }
    // A file is longer than its first page says before that is written.
    let now = try await driver.blocking { () throws(DriverError) in try Self.length(of: live, delta.space) }
    var size: Int64
    if let found {
      if delta.space == 0 {
        // Its first page speaks for all of its files.
        size = max(found.size, lastPage, now ?? 0)
      } else if name.hasPrefix("undo") {
        // These can be cut off.
        size = max(said ?? found.size, lastPage)
      } else {
        size = max(found.size, said ?? 0, lastPage, now ?? 0)
      }
    } else {
      size = max(said ?? 0, lastPage, now ?? 0)
      if !whole.contains(delta.space) {
        // What was made since this copy began is in the log as a whole.
        let isYoung = used.tables[delta.space] == nil && !used.discarded.contains(delta.space)
        let since = since
        let looked = try await driver.blocking { () throws(DriverError) -> Int64? in
          try Self.look(at: live, delta.space, pageBytes: delta.pageBytes, since: since, except: delta.pages)
        }
        guard looked != nil || isYoung else {
          throw .unsupported("\(live) is new, and was gone before it could be looked at")
        }
        size = max(size, looked ?? 0)
      }
    }
    guard size < Int64(UInt32.max) * pageBytes else { throw .corrupt("\(target) says that it has \(size) bytes") }
    size = (size + pageBytes - 1) / pageBytes * pageBytes
    let (length, pages) = (Int64(partBytes), delta.pages)
    let count = Int((size + length - 1) / length)
    var result = Plan(
      path: path, target: target, delta: delta, size: size, parts: [], missing: [:], missingBytes: 0)
    result.parts.reserveCapacity(count)
    var next = 0
    for part in 0..<count {
      let begin = Int64(part) * length
      let bytes = min(length, size - begin)
      var changed: Int64 = 0
      while next < pages.count, Int64(pages[next].number) * pageBytes < begin + bytes {
        changed += pageBytes
        next += 1
      }
      let known = found.flatMap { $0.parts.indices.contains(part) ? $0.parts[part] : nil }
      let knownBytes = found.map { min(length, $0.size - begin) } ?? 0
      if changed == 0, let known, knownBytes == bytes {
        result.parts.append(known)
      } else {
        result.parts.append(nil)
        result.missing[part] = (result.missingBytes, changed == bytes ? nil : known)
        result.missingBytes += bytes
      }
    }
    return result
  }

  /// How long the tablespace says that it is, if its first page is among those that changed. Blocks.
  private static func saidBytes(_ path: String, _ delta: PageDelta) throws(DriverError) -> Int64? {
    guard let first = delta.pages.first, first.number == 0 else { return nil }
    do throws(SystemFailure) {
      let page = try File(path + PageDelta.suffix, O_RDONLY).read(at: first.offset, count: delta.pageBytes)
      let (space, pages): (UInt32, UInt32) = page.withUnsafeBytes {
        (InnoDBPage.number($0, at: InnoDBPage.spaceOffset), InnoDBPage.number($0, at: InnoDBPage.sizeOffset))
      }
      guard space == delta.space else { throw SystemFailure("read", path: path, number: EBADMSG) }
      return Int64(pages) * Int64(delta.pageBytes)
    } catch {
      throw error.number == EBADMSG ? .corrupt("\(path) has another tablespace's first page") : DriverError(error)
    }
  }

  /// `nil` if there is no file, or another tablespace's. Blocks.
  private static func length(of path: String, _ space: UInt32) throws(DriverError) -> Int64? {
    do throws(SystemFailure) {
      let file = try File(path, O_RDONLY)
      let head = try file.read(at: 0, count: InnoDBPage.sizeOffset)
      guard head.count == InnoDBPage.sizeOffset else { return nil }
      let own: UInt32 = head.withUnsafeBytes { InnoDBPage.number($0, at: InnoDBPage.spaceOffset) }
      return own == space ? Int64(try file.status().st_size) : nil
    } catch {
      if error.number == ENOENT { return nil }
      throw DriverError(error)
    }
  }

  /// Of a file that the earlier copy has not, every page must have changed since: looks for others, as an import makes them.
  /// Blocks.
  ///
  /// - Parameter pages: Those that are known to have changed.
  /// - Returns: The file's length; `nil` if there is none, or another tablespace's.
  static func look(
    at path: String, _ space: UInt32, pageBytes: Int, since: UInt64, except pages: [PageDelta.Page]
  ) throws(DriverError) -> Int64? {
    do throws(SystemFailure) {
      let file = try File(path, O_RDONLY)
      let size = Int64(try file.status().st_size)
      var expected = pages[...]
      var (at, isOld) = (Int64(0), false)
      while at < size {
        let bytes = try file.read(at: at, count: 64 * pageBytes)
        guard bytes.count >= pageBytes else { break }
        for begin in stride(from: 0, to: bytes.count - pageBytes + 1, by: pageBytes) {
          let number = (at + Int64(begin)) / Int64(pageBytes)
          let (isEmpty, position, owner): (Bool, UInt64, UInt32) = bytes.withUnsafeBytes { raw in
            let page = UnsafeRawBufferPointer(rebasing: raw[begin..<begin + pageBytes])
            return (
              InnoDBPage.isZero(page), InnoDBPage.position(of: page),
              InnoDBPage.number(page, at: InnoDBPage.spaceOffset)
            )
          }
          if number == 0, !isEmpty, owner != space { return nil }
          while let first = expected.first, Int64(first.number) < number { expected.removeFirst() }
          if let first = expected.first, Int64(first.number) == number { continue }
          if position <= since, !isEmpty { isOld = true }
        }
        at += Int64(bytes.count)
      }
      guard !isOld else { throw SystemFailure("read", path: path, number: EBADMSG) }
      return size
    } catch {
      switch error.number {
      case ENOENT: return nil
      case EBADMSG: throw .unsupported("\(path) is new, and has pages that say they are old: it was imported")
      default: throw DriverError(error)
      }
    }
  }

  /// Writes the missing parts into scratch, in the place of the delta.
  private func write(_ plan: Plan) async throws(DriverError) {
    let (delta, length) = (plan.delta, Int64(partBytes))
    let out = try await driver.blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        let out = try File(plan.path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW)
        try out.truncate(to: plan.missingBytes)
        return out
      } catch { throw DriverError(error) }
    }
    // The same bytes may be wanted in several places.
    var places: [Digest: [(offset: Int64, limit: Int64)]] = [:]
    for (part, missing) in plan.missing {
      guard let digest = missing.from else { continue }
      places[digest, default: []].append((missing.offset, min(length, plan.size - Int64(part) * length)))
    }
    let (wanted, pool) = (places, driver.environment.pool)
    if !wanted.isEmpty {
      do throws(AnyFailure) {
        try await earlier.read(Array(wanted.keys)) { (digest, bytes) throws(AnyFailure) -> Void in
          do throws(SystemFailure) {
            try await pool.run { () throws(SystemFailure) in
              for place in wanted[digest] ?? [] {
                let count = min(bytes.count, Int(place.limit))
                try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in
                  try out.write(UnsafeRawBufferPointer(rebasing: raw[..<count]), at: place.offset)
                }
              }
            }
          } catch { throw AnyFailure(error) }
        }
      } catch { throw error.isCancellation ? .cancelled : .sink(error) }
    }
    try await driver.blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        let file = try File(plan.path + PageDelta.suffix, O_RDONLY)
        for page in delta.pages {
          let begin = Int64(page.number) * Int64(delta.pageBytes)
          let part = Int(begin / length)
          guard let place = plan.missing[part] else { continue }
          let bytes = try file.read(at: page.offset, count: delta.pageBytes)
          guard bytes.count == delta.pageBytes else { throw SystemFailure("read", path: file.path, number: EIO) }
          try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in
            try out.write(raw, at: place.offset + begin - Int64(part) * length)
          }
        }
        unlink(plan.path + PageDelta.suffix)
        unlink(plan.path + PageDelta.descriptionSuffix)
      } catch { throw DriverError(error) }
    }
  }

  // MARK: Whether it is true

  /// How many parts are looked at all the same.
  static let samples = 32

  /// Compares some of what is taken over with the live files, by chance.
  private func examine(_ settled: [TreePath: Settled]) async throws(DriverError) {
    var ends: [(end: Int, path: TreePath)] = []
    var total = 0
    for (path, file) in settled.sorted(by: { $0.key < $1.key }) {
      total += file.parts.count
      ends.append((total, path))
    }
    guard total > 0 else { return }
    var chosen: [Digest: Set<Sample>] = [:]
    for _ in 0..<min(Self.samples, total) {
      let number = driver.environment.randomness.below(total)
      guard let found = ends.first(where: { $0.end > number }), let file = settled[found.path] else { continue }
      let part = number - (found.end - file.parts.count)
      guard let digest = file.parts[part] else { continue }
      chosen[digest, default: []].insert(
        Sample(path: found.path, part: part, space: file.space, pageBytes: file.pageBytes))
    }
    if chosen.isEmpty { return }
    let (wanted, driver, since, partBytes) = (chosen, driver, since, partBytes)
    do throws(AnyFailure) {
      try await earlier.read(Array(wanted.keys)) { (digest, bytes) throws(AnyFailure) -> Void in
        do throws(DriverError) {
          for sample in wanted[digest] ?? [] {
            try await driver.blocking { () throws(DriverError) in
              try sample.compare(bytes, with: driver.livePath(of: sample.path), partBytes: partBytes, since: since)
            }
          }
        } catch { throw AnyFailure(error) }
      }
    } catch {
      if let inner = error.underlying as? DriverError { throw inner }
      if let inner = error.underlying as? AnyFailure, let driver = inner.underlying as? DriverError { throw driver }
      throw error.isCancellation ? .cancelled : .sink(error)
    }
  }

  private struct Sample: Hashable {
    var path: TreePath
    var part: Int
    var space: UInt32
    var pageBytes: Int

    /// Blocks.
    func compare(_ known: [UInt8], with live: String, partBytes: Int, since: UInt64) throws(DriverError) {
      var tries = 0
      while true {
        var difference: Int64?
        do throws(SystemFailure) {
          let file = try File(live, O_RDONLY)
          let head = try file.read(at: 0, count: InnoDBPage.sizeOffset + 4)
          let begin = Int64(part) * Int64(partBytes)
          let now = try file.read(at: begin, count: known.count)
          // Another file by now, or a shorter one.
          guard head.count == InnoDBPage.sizeOffset + 4, now.count == known.count else { return }
          let space: UInt32 = head.withUnsafeBytes { InnoDBPage.number($0, at: InnoDBPage.spaceOffset) }
          guard space == self.space else { return }
          difference = self.difference(now, known, since: since).map { begin + Int64($0) }
        } catch {
          if error.number == ENOENT { return }
          throw DriverError(error)
        }
        guard let difference else { return }
        // A page that is being written looks like anything.
        tries += 1
        if tries > 5 {
          throw .unsupported(
            "\(live) is not what it was in the newest copy at byte \(difference), and says that it did not change")
        }
      }
    }

    /// Where they differ although the live page says that it is as old as that.
    private func difference(_ now: [UInt8], _ known: [UInt8], since: UInt64) -> Int? {
      for begin in stride(from: 0, to: now.count - pageBytes + 1, by: pageBytes) {
        let range = begin..<begin + pageBytes
        if now[range] == known[range] { continue }
        let isExplained = now[range].withUnsafeBytes { InnoDBPage.isZero($0) || InnoDBPage.position(of: $0) > since }
        if !isExplained { return begin }
      }
      return nil
    }
  }

  // MARK: As if it were whole

  /// mariadb-backup prepares what says that it is whole. Blocks.
  private static func describeAsWhole(_ directory: String) throws(DriverError) {
    func change(_ name: String, _ values: [String: String]) throws(SystemFailure) {
      let path = "\(directory)/\(name)"
      let text = String(decoding: try Files.read(path, limitBytes: 1 << 16), as: UTF8.self)
      let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
        let key = line.prefix { $0 != "=" && $0 != " " }
        return values[String(key)].map { "\(key) = \($0)" } ?? String(line)
      }
      try Files.replace(path, with: Array(lines.joined(separator: "\n").utf8))
    }
    do throws(SystemFailure) {
      try change("xtrabackup_checkpoints", ["backup_type": "full-backuped", "from_lsn": "0"])
      try change("xtrabackup_info", ["innodb_from_lsn": "0", "incremental": "N"])
    } catch { throw DriverError(error) }
  }
}

extension MariaDBDriver {
  /// Where the server has what a copy has at `target`, below `data`.
  func livePath(of target: TreePath) -> String {
    ([dataDirectory] + target.components.dropFirst().map(\.lossyText)).joined(separator: "/")
  }
}

// MARK: Whether there is one

extension MariaDBDriver {
  /// What a copy that begins now will say of its beginning; asked before the first page is read.
  struct Beginning: Sendable {
    var checkpoint: UInt64
    var current: UInt64
    var files: String
    var used: UsedSpaces
  }

  func beginning(_ control: Connection) async throws(DriverError) -> Beginning {
    let (checkpoint, current): (UInt64, UInt64)
    do throws(StatementFailure) {
      let rows = try await control.run(
        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_lsn_last_checkpoint', 'Innodb_lsn_current')"
      ).rows
      let values = Dictionary(rows.compactMap { row in row.count == 2 ? row[0].map { ($0, row[1] ?? "") } : nil }) {
        $1
      }
      guard let last = values["Innodb_lsn_last_checkpoint"].flatMap({ UInt64($0) }),
        let now = values["Innodb_lsn_current"].flatMap({ UInt64($0) }), last > 0, last <= now
      else { throw StatementFailure(code: 2027, message: "the server did not say where InnoDB's last checkpoint is") }
      (checkpoint, current) = (last, now)
    } catch { throw error.driverError("asking InnoDB where it stands") }
    let directory = dataDirectory
    let files = try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { return try CopyOrigin.files(in: directory) } catch { throw DriverError(error) }
    }
    return Beginning(
      checkpoint: checkpoint, current: current, files: files, used: try await UsedSpaces.read(control))
  }

  /// Looks whether an earlier copy can be leaned on.
  ///
  /// - Throws: A reason to read everything.
  func increment(
    since earlier: EarlierCapture, _ facts: RestoreFacts, _ server: ServerFacts, _ beginning: Beginning,
    _ control: Connection
  ) async throws(DriverError) -> Increment {
    guard let origin = facts.origin else {
      throw .unsupported(
        facts.obstacle ?? "the newest copy in the repository does not say what a later one can begin with")
    }
    guard facts.version == server.version else {
      throw .unsupported(
        "the newest copy in the repository is of \(facts.version), and the server is \(server.version)")
    }
    guard origin.files == beginning.files else {
      throw .unsupported(
        "InnoDB's log was made anew since the newest copy in the repository, or its files were replaced")
    }
    guard let end = UInt64(facts.lsn), origin.checkpoint <= end, end <= beginning.current else {
      throw .unsupported(
        "InnoDB's log is at \(beginning.current), and that of the newest copy in the repository was at \(facts.lsn)")
    }
    guard server.isLogged else {
      throw .unsupported("without a binary log nothing shows whether the server was set back")
    }
    if server.variables["innodb_immediate_scrub_data_uncompressed"] == "ON" {
      throw .unsupported(
        "innodb_immediate_scrub_data_uncompressed empties pages, which then don't say that they changed")
    }
    if let level = server.variables["innodb_force_recovery"], level != "0" {
      throw .unsupported("innodb_force_recovery is \(level)")
    }
    let log = binaryLog(server)
    let trail = origin.trail
    do throws(StatementFailure) {
      let names = try await control.run("SHOW BINARY LOGS").rows.map { $0.first ?? nil }
      guard names.contains(trail.position.file) else {
        throw StatementFailure(
          code: 1, message: "\(trail.position.file) is not among the server's binary logs any more")
      }
    } catch {
      if error.code == 1 {
        throw .unsupported("nothing shows that the server was not set back since the newest copy: \(error.message)")
      }
      throw error.driverError("listing the binary logs")
    }
    let found = try await blocking { () throws(DriverError) in
      do throws(DriverError) { return try log.trail(before: trail.position) } catch {
        guard case .logGap(let what) = error else { throw error }
        throw .unsupported("nothing shows that the server was not set back since the newest copy: \(what)")
      }
    }
    guard found == trail else {
      throw .unsupported("the server was set back since the newest copy in the repository: its binary log is another")
    }
    let list: SpaceList
    do throws(AnyFailure) {
      list = SpaceList(
        try await earlier.tree.contents(
          of: TreePath(SpaceList.directory).appending(FileName(SpaceList.file)), limitBytes: SpaceList.limitBytes))
    } catch { throw error.isCancellation ? .cancelled : .sink(error) }
    let part = facts.partBytes
    guard let page = server.variables["innodb_page_size"].flatMap({ Int($0) }), part % page == 0 else {
      throw .unsupported("InnoDB's pages are longer than the parts of the newest copy in the repository")
    }
    let same = list.entries.filter { beginning.used.tables[$0.key] == $0.value.table }
    // Before the copy, as tables come and go.
    var whole: Set<UInt32> = []
    for (space, table) in beginning.used.tables where table > 0 && same[space] == nil {
      guard let name = beginning.used.names[space] else { continue }
      let path = "\(dataDirectory)/\(name).ibd"
      let bytes = beginning.used.shortPages[space] ?? page
      let size = try await blocking { () throws(DriverError) -> Int64? in
        try Increment.look(at: path, space, pageBytes: bytes, since: origin.checkpoint, except: [])
      }
      if size != nil { whole.insert(space) }
    }
    return Increment(
      earlier: earlier.tree, since: origin.checkpoint, partBytes: part, spaces: same.mapValues { $0.path },
      whole: whole, used: beginning.used, driver: self)
  }
}
