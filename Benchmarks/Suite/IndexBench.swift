import CShim
import Core
import IO
import ObjectStoreLocal
import Synchronization
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// A large repository's index: what it takes to load, to ask, and to prune by.
///
/// The repository is made first: real index files and directories, and packs that are as large as the index says and hold
/// nothing. Programs that do nothing else load it, so their peak is that of the whole process.
enum IndexBench: Benchmark {
  static let name = "index"
  static let summary = "the index of a large repository: load, look up, plan a prune: --set blobs=, perpack="

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let isFull = context.scale == .full
    let blobs = context.number("blobs") ?? (isFull ? 10_000_000 : 20_000)
    let runner = PeerRunner(.salvor, place: "\(context.directory)/salvor", data: "")
    try await BlockingPool.shared.run { try runner.prepare() }
    let made = try await timed(context) {
      let repository = try await open(runner)
      return try await SyntheticIndex(blobs: blobs, blobsPerPack: context.number("perpack") ?? 50)
        .write(to: repository, seed: 1) { (pack, bytes) throws(SystemFailure) in
          let directory = "\(runner.repository)/data/\(pack.hex.prefix(2))"
          try Files.createDirectory(directory)
          try File("\(directory)/\(pack.hex)", O_WRONLY | O_CREAT).truncate(to: Int64(bytes))
        }
    }
    var rows = [
      BenchmarkRow("blobs of data", Double(blobs), ""),
      BenchmarkRow(
        "index files", Double(try BenchmarkData.bytes(below: runner.repository + "/index")) / 1e6, "MB"),
      BenchmarkRow("making the repository", made.seconds, "s"),
    ]
    let options = ["-q", "-r", runner.repository]
    let load = try await child(["cat", "blob", made.value.hex] + options, runner, context)
    rows += [
      BenchmarkRow("load, program and key included", load.seconds, "s", bar: .atMost(10)),
      BenchmarkRow("load, processor", load.processorSeconds, "s"),
      BenchmarkRow("load, peak memory", load.peakMB, "MB", bar: .atMost(600)),
    ]
    let prune = try await child(["prune", "--dry-run"] + options, runner, context)
    rows += [
      BenchmarkRow("prune, dry run", prune.seconds, "s"),
      BenchmarkRow("prune, dry run, processor", prune.processorSeconds, "s"),
      BenchmarkRow("prune, dry run, peak memory", prune.peakMB, "MB", bar: .atMost(900)),
    ]
    let repository = try await open(runner)
    try await repository.refreshIndex()
    let memory = repository.indexMemory()
    let count = BlobKind.allCases.reduce(0) { $0 + repository.blobCount($1) }
    rows += [
      // Of a few blobs, the table's frame is most of what there is.
      BenchmarkRow(
        "index, per blob", Double(memory.blobBytes) / Double(count), "bytes", bar: isFull ? .atMost(50) : nil),
      BenchmarkRow("index, packs", Double(memory.packBytes) / 1e6, "MB"),
    ]
    return rows + (try await lookUps(repository, isFull ? 4_000_000 : 10_000, context))
  }

  private static func open(_ runner: PeerRunner) async throws -> Repository {
    try await Repository.open(
      store: LocalObjectStore(runner.repository), password: Secret("benchmark"), loadingIndex: false)
  }

  private static func timed<T>(
    _ context: BenchmarkContext, _ body: () async throws -> T
  ) async throws -> (value: T, seconds: Double) {
    let start = context.time.monotonicNanoseconds()
    let value = try await body()
    return (value, Double(context.time.monotonicNanoseconds() - start) / 1e9)
  }

  private static func child(
    _ words: [String], _ runner: PeerRunner, _ context: BenchmarkContext
  ) async throws -> (seconds: Double, processorSeconds: Double, peakMB: Double) {
    let (measured, seconds) = try await timed(context) {
      try await BlockingPool.shared.run { try runner.call(runner.salvor + words) }
    }
    return (seconds, Double(measured.processor_us) / 1e6, Double(measured.peak_kib) * 1024 / 1e6)
  }

  /// Half of them for blobs that are there.
  private static func lookUps(
    _ repository: Repository, _ count: Int, _ context: BenchmarkContext
  ) async throws -> [BenchmarkRow] {
    var rows: [BenchmarkRow] = []
    let ids = repository.blobIDs(.data)
    for threads in [1, VaultSettings().processors] {
      let found = Atomic(0)
      let (_, seconds) = try await timed(context) {
        await BlockingPool.shared.run {
          let next = Atomic(UInt64(0))
          BlockingPool.sideBySide(threads) {
            let random = SeededRandomness(seed: next.add(1, ordering: .relaxed).newValue)
            var mine = 0
            for number in 0..<count / threads {
              let word = random.next()
              let id = number % 2 == 0 ? ids[Int(word % UInt64(ids.count))] : Digest.unknown(word)
              if repository.contains(.data, id) { mine += 1 }
            }
            found.add(mine, ordering: .relaxed)
          }
        }
      }
      guard found.load(ordering: .relaxed) >= count / threads / 2 * threads else {
        throw BenchmarkError.wrong("blobs are not found")
      }
      rows.append(BenchmarkRow("look-ups, threads: \(threads)", Double(count) / seconds, "1/s"))
    }
    return rows
  }
}

extension Digest {
  /// A name that nothing has.
  fileprivate static func unknown(_ word: UInt64) -> Digest {
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 4) { words in
      words.initialize(repeating: word)
      return Digest(UnsafeRawBufferPointer(words))
    }
  }
}
