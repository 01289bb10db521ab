import Core
import IO
import ObjectStoreLocal
import Subprocess
import Vault

/// Backup, restore and check beside the restic that is installed, on the same data in the same run.
///
/// Both open their repository anew for every command, so both pay for their key each time. Every figure is the median of the
/// ratios of pairs, the peer's seconds over ours; above 1, Salvor is faster.
enum VaultBench: Benchmark {
  static let name = "vault"
  static let summary = "first backup, nothing changed, restore and check, beside restic"

  private static let password = "benchmark"
  private static let bars: [(String, Double)] = [
    ("first backup", 2.5), ("nothing changed", 8), ("restore", 3), ("check, all data", 3),
  ]

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let data = context.directory + "/data"
    let bytes = try await BlockingPool.shared.run {
      try makeData(
        at: data, largeFiles: context.scale == .full ? 64 : 2, smallFiles: context.scale == .full ? 2000 : 20)
    }
    var ours: [[Double]] = []
    var theirs: [[Double]] = []
    for round in 0..<(context.scale == .full ? 3 : 1) {
      let place = "\(context.directory)/round\(round)"
      // Whoever goes second finds a warmer machine: take turns.
      if round % 2 == 0 { ours.append(try await salvor(data, bytes, place + "-salvor", context.time)) }
      theirs.append(try await restic(data, place + "-restic", context.time))
      if round % 2 == 1 { ours.append(try await salvor(data, bytes, place + "-salvor", context.time)) }
      for peer in ["salvor", "restic"] {
        try await BlockingPool.shared.run { () throws(SystemFailure) in try Files.removeTree("\(place)-\(peer)") }
      }
    }
    var rows = [BenchmarkRow("data", Double(bytes) / 1e6, "MB")]
    for (index, (name, bar)) in bars.enumerated() {
      rows.append(BenchmarkRow("\(name), salvor", median(ours.map { $0[index] }), "s"))
      rows.append(BenchmarkRow("\(name), restic", median(theirs.map { $0[index] }), "s"))
      let ratios = zip(ours, theirs).map { $1[index] / $0[index] }
      rows.append(BenchmarkRow("\(name), ratio", median(ratios), "×", bar: .atLeast(bar)))
    }
    return rows
  }

  /// Large files that compress by half, large ones that don't at all, and many small ones; the same every time.
  ///
  /// - Returns: Bytes.
  private static func makeData(at directory: String, largeFiles: Int, smallFiles: Int) throws -> Int64 {
    let random = SeededRandomness(seed: 20)
    var total: Int64 = 0
    func make(_ path: String, _ count: Int, isNoise: Bool) throws {
      var bytes = [UInt8](repeating: 0, count: count)
      bytes.withUnsafeMutableBytes { buffer in
        for offset in stride(from: 0, to: count & ~7, by: 8) {
          // Words of a small vocabulary compress as prose and tables do.
          let word = isNoise ? random.next() : (random.next() & 0x3ff) &* 0x0101_0311_1d2b_2f01
          buffer.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
        }
      }
      try Files.replace(path, with: bytes)
      total += Int64(count)
    }
    try Files.createDirectory(directory + "/large")
    for index in 0..<largeFiles { try make("\(directory)/large/\(index)", 4 << 20, isNoise: index % 4 == 0) }
    for index in 0..<smallFiles {
      let folder = "\(directory)/small/\(index / 100)"
      if index % 100 == 0 { try Files.createDirectory(folder) }
      try make("\(folder)/\(index)", 1000 + random.below(15_000), isNoise: index % 4 == 0)
    }
    return total
  }

  // MARK: Salvor

  private static func salvor(
    _ data: String, _ bytes: Int64, _ place: String, _ time: any Timekeeper
  ) async throws -> [Double] {
    let store = LocalObjectStore(place + "/repository")
    _ = try await Repository.create(store: store, password: Secret(password))
    let (first, firstTime) = try await time.measure { try await backup(data, store, parent: nil, time) }
    let (second, secondTime) = try await time.measure { try await backup(data, store, parent: first, time) }
    guard second == first else { throw BenchmarkError.wrong("the tree of unchanged data changed") }
    let (_, restoreTime) = try await time.measure {
      let repository = try await Repository.open(store: store, password: Secret(password))
      let report = try await SnapshotTree(reader: repository, root: first).restore(to: place + "/restored")
      guard report.failures.isEmpty, report.totals.bytes == bytes else {
        throw BenchmarkError.wrong("the restore is not whole")
      }
    }
    let (_, checkTime) = try await time.measure {
      let repository = try await Repository.open(store: store, password: Secret(password), loadingIndex: false)
      let report = try await repository.withLock(loadingIndex: false) { try await repository.check(readData: true) }
      guard report.isSound else { throw BenchmarkError.wrong("the check found damage") }
    }
    return [firstTime, secondTime, restoreTime, checkTime].map { $0 / .seconds(1) }
  }

  private static func backup(
    _ data: String, _ store: LocalObjectStore, parent: BlobID?, _ time: any Timekeeper
  ) async throws -> BlobID {
    let repository = try await Repository.open(store: store, password: Secret(password), loadingIndex: false)
    return try await repository.withLock {
      let builder = SnapshotBuilder(repository)
      let report = try await builder.archive(
        [data], ArchiveOptions(parent: parent.map { SnapshotTree(reader: repository, root: $0) }))
      guard !report.isPartial else { throw BenchmarkError.wrong("the backup is partial") }
      let tree = try await builder.finish()
      try await repository.flush()
      _ = try await repository.save(
        Snapshot(time: time.now(), tree: tree.root, paths: [data], hostname: "benchmark"))
      return tree.root
    }
  }

  // MARK: restic

  private static func restic(_ data: String, _ place: String, _ time: any Timekeeper) async throws -> [Double] {
    let secret = place + "/password"
    try await BlockingPool.shared.run {
      try Files.createDirectory(place)
      try Files.replace(secret, with: Array(password.utf8))
    }
    func call(_ words: String...) async throws -> Double {
      let arguments = ["-q", "--no-cache", "-r", place + "/repository", "-p", secret] + words
      let (_, duration) = try await time.measure {
        let result = try await Subprocess.run(
          .name("restic"), arguments: Arguments(arguments), output: .discarded, error: .string(limit: 1 << 16))
        guard case .exited(0) = result.terminationStatus else {
          throw BenchmarkError.peer("restic \(words[0])", result.standardError ?? "")
        }
      }
      return duration / .seconds(1)
    }
    _ = try await call("init")
    return [
      try await call("backup", data), try await call("backup", data),
      try await call("restore", "latest", "--target", place + "/restored"), try await call("check", "--read-data"),
    ]
  }
}
