import ArgumentParser
import Console
import Core
import Vault

/// How far a prune goes: restic's options by restic's names.
struct PruneLimits: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "What may stay though nobody uses it: a size such as 200M, a share such as 5%, or unlimited.",
      valueName: "limit"))
  var maxUnused = "5%"
  @Option(help: ArgumentHelp("Read and write again no more than this, such as 10G.", valueName: "size"))
  var maxRepackSize: String?
  @Flag(help: "Write packs again that are far below the usual size.") var repackSmall = false
  @Flag(help: "Compress what was stored without.") var repackUncompressed = false

  func options() throws -> PruneOptions {
    var options = PruneOptions()
    if maxUnused == "unlimited" {
      options.maxUnused = .unlimited
    } else if maxUnused.hasSuffix("%"), let percent = Double(maxUnused.dropLast()), percent >= 0, percent < 100 {
      options.maxUnused = .share(percent / 100)
    } else if let bytes = byteCount(maxUnused) {
      options.maxUnused = .bytes(bytes)
    } else {
      throw ValidationError("'\(maxUnused)' is not a size such as 200M, a share such as 5%, or unlimited")
    }
    if let maxRepackSize {
      guard let bytes = byteCount(maxRepackSize) else {
        throw ValidationError("'\(maxRepackSize)' is not a size, such as 10G")
      }
      options.maxRepackBytes = bytes
    }
    (options.repackSmall, options.repackUncompressed) = (repackSmall, repackUncompressed)
    return options
  }
}

/// `1000`, `200k`, `1.5G`: in powers of 1024, as restic has them.
func byteCount(_ text: String) -> Int? {
  let units: [Character: Double] = ["b": 1, "k": 1024, "m": 1_048_576, "g": 1_073_741_824, "t": 1_099_511_627_776]
  var digits = text[...]
  var unit = 1.0
  if let last = text.last?.lowercased().first, let factor = units[last] {
    unit = factor
    digits = digits.dropLast()
  }
  guard let number = Double(digits), number >= 0, number * unit < 9e18 else { return nil }
  return Int(number * unit)
}

extension VaultCommand {
  struct Prune: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "prune", abstract: "Remove what no snapshot needs.",
      discussion: """
        Packs that hold nothing in use go; packs that hold little in use are written again without the rest. Nothing is \
        removed before what replaces it is durable: interrupt it whenever you like, and run it again.

        EXAMPLES
          salvor vault prune --dry-run
          salvor vault prune --max-unused 0
          salvor vault prune --max-repack-size 10G      a bit at a time
        """)

    @Flag(name: [.customShort("n"), .long], help: "Say what would go, and change nothing.") var dryRun = false
    @OptionGroup var limits: PruneLimits
    @OptionGroup var options: RepositoryOptions

    func validate() throws { _ = try limits.options() }

    func run() async throws {
      var settings = try limits.options()
      settings.isDryRun = dryRun
      let (chosen, line) = (settings, options.progress)
      let report = try await options.locked(exclusive: true, needsLock: !dryRun) { repository in
        try await repository.prune(chosen) { line.show($0) }
      }
      line.clear()
      try options.show(report) { _ in report.lines(isDryRun: dryRun) }
    }
  }
}

extension ProgressLine {
  func show(_ progress: PruneProgress) {
    show(
      "prune \(progress.phase.rawValue)",
      progress.total > 0 ? "\(progress.done) of \(progress.total)" : "\(progress.done)")
  }
}

extension PruneReport {
  func lines(isDryRun: Bool) -> [String] {
    func amount(_ amount: Amount) -> String { "\(amount.blobs.of("blob")), \(formatBytes(Int64(amount.bytes)))" }
    let would = isDryRun ? "would be " : ""
    var lines = [
      "in use by \(snapshots.of("snapshot")): \(amount(used))", "in no snapshot: \(amount(unused))",
    ]
    if duplicates.blobs > 0 { lines.append("stored twice: \(amount(duplicates))") }
    lines.append("of \(packs.of("pack")): \(packsRemoved) \(would)removed, \(packsRepacked) \(would)written again")
    if packsUnindexed > 0 {
      lines.append("left behind by interrupted runs: \(packsUnindexed.of("pack")) \(would)removed")
    }
    if packsLocked > 0 {
      lines.append(
        "locked in the store: \(packsLocked.of("pack")) \(isDryRun ? "would stay" : "stay"), \(formatBytes(Int64(lockedBytes)))"
      )
    }
    lines.append(
      "\(formatBytes(Int64(freedBytes))) \(would)freed; \(formatBytes(Int64(unusedLeftBytes))) in no snapshot "
        + (isDryRun ? "would stay" : "stay"))
    return lines
  }
}
