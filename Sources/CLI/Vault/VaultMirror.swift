import ArgumentParser
import Console
import Core
import IO
import Vault

extension VaultCommand {
  struct Mirror: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "mirror", abstract: "Keep copies of a repository the same as it is.",
      discussion: """
        A mirror is the repository once more, file by file: salvor and restic open it by itself, with the same password. \
        With --mirror every command writes to it in the same pass; these bring it up to date afterwards.

        EXAMPLES
          salvor vault mirror sync --mirror /mnt/second
          salvor vault mirror status --mirror /mnt/second --mirror s3:backups/copy
        """, subcommands: [Sync.self, Status.self])
  }
}

extension VaultCommand.Mirror {
  /// The mirrors named; one must be.
  fileprivate static func stores(_ options: RepositoryOptions) throws -> [any ObjectStore] {
    let stores = try options.mirrorStores()
    guard !stores.isEmpty else {
      throw CommandFailure(
        .usage,
        Report("VAULT-196", "no mirror is named").remedy("give its location with --mirror, or set SALVOR_MIRRORS"))
    }
    return stores
  }

  struct Sync: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "sync", abstract: "Copy to mirrors what they lack.",
      discussion: """
        An empty place becomes a mirror. Packs come first, then indexes, then snapshots: the mirror can be restored from \
        at any moment, and what has arrived is not sent again. What only the mirror has stays, unless --delete is given.

        EXAMPLES
          salvor vault mirror sync --mirror /mnt/second
          salvor vault mirror sync --mirror s3:backups/copy --delete
          salvor vault mirror sync --mirror /mnt/second --dry-run
        """)

    @Flag(help: "Remove from the mirror what the repository no longer has, last of all.") var delete = false
    @Flag(name: [.customShort("n"), .long], help: "Say what would be done, and change nothing.") var dryRun = false
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      if dryRun { return try await showDifferences(of: VaultCommand.Mirror.stores(options), options) }
      let (delete, line) = (delete, options.progress)
      let mirrors = try VaultCommand.Mirror.stores(options)
      let results = try await options.locked(needsLock: true, loadingIndex: false, isAlone: true) { repository in
        var results: [(String, Result<MirrorSyncReport, AnyFailure>)] = []
        for mirror in mirrors {
          do {
            let report = try await repository.synchronize(mirror, removesExtra: delete) { done, total, bytes in
              line.show("mirror", "\(done) of \(total) files, \(formatBytes(Int64(bytes)))")
            }
            results.append((mirror.location, .success(report)))
          } catch {
            if Task.isCancelled { throw error }
            results.append((mirror.location, .failure(AnyFailure(error))))
          }
        }
        return results
      }
      line.clear()
      let json = results.map { location, result -> JSONValue in
        switch result {
        case .failure(let failure):
          return ["mirror": .string(location), "in_step": false, "error": .string("\(failure.report)")]
        case .success(let report):
          return [
            "mirror": .string(location), "in_step": .bool(report.isComplete), "copied": .integer(Int64(report.copied)),
            "copied_bytes": .integer(Int64(report.copiedBytes)), "removed": .integer(Int64(report.removed)),
            "only_there": .integer(Int64(report.extra)), "damaged": .array(report.damaged.map { .string($0.path) }),
          ]
        }
      }
      try options.show(json) { style in results.flatMap { Self.lines($0.0, $0.1, style) } }
      for (location, result) in results {
        switch result {
        case .failure(let failure):
          let report = failure.report
          throw CommandFailure(
            .failed,
            Report(report.code, "the mirror \(location): \(report.summary)", retry: report.retry)
              .state("what has arrived there is not sent again").remedy(report.remedy ?? "run the command again"))
        case .success(let report) where !report.isComplete:
          throw CommandFailure(
            .validationFailed,
            Report(
              "VAULT-197", "\(report.damaged.count.of("file")) of the repository can't be copied: they are damaged"
            )
            .state("\(location) has everything else, but neither new indexes nor new snapshots")
            .remedy("run `salvor vault check --read-data`, and repair the repository first"))
        case .success: continue
        }
      }
    }

    private static func lines(
      _ location: String, _ result: Result<MirrorSyncReport, AnyFailure>, _ style: Style
    ) -> [String] {
      guard case .success(let report) = result else {
        return ["\(style.paint("failed", .bad)) \(location.harmless)"]
      }
      var lines = [
        "\(location.harmless): \(report.copied.of("file")) copied, \(formatBytes(Int64(report.copiedBytes))); "
          + "\(report.removed) removed"
      ]
      lines += report.damaged.map { "\(style.paint("damage", .bad)) \($0) is damaged in the repository" }
      if report.extra > 0 { lines.append("  \(report.extra.of("file")) only there; --delete removes them") }
      return lines
    }
  }

  struct Status: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "status", abstract: "Say which mirrors lack something.",
      discussion: """
        Names and sizes are compared; `salvor vault check` looks at the content of every copy. Exit status 4 if a mirror \
        lacks something, or can't be reached.

        EXAMPLES
          salvor vault mirror status --mirror /mnt/second
          SALVOR_MIRRORS='/mnt/second s3:backups/copy' salvor vault mirror status --json
        """)

    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      try await showDifferences(of: VaultCommand.Mirror.stores(options), options, fails: true)
    }
  }
}

/// Shows what mirrors lack.
///
/// - Parameter fails: Whether to end with a failure if one lacks anything.
private func showDifferences(
  of mirrors: [any ObjectStore], _ options: RepositoryOptions, fails: Bool = false
) async throws {
  let results = try await options.locked(loadingIndex: false, isAlone: true) { repository in
    var results: [(String, Result<MirrorDifference, AnyFailure>)] = []
    for mirror in mirrors {
      do {
        let difference = try await MirrorSync(from: repository.store, to: mirror).compare()
        results.append((mirror.location, .success(difference)))
      } catch { results.append((mirror.location, .failure(AnyFailure(error)))) }
    }
    return results
  }
  let json = results.map { location, result -> JSONValue in
    switch result {
    case .failure(let failure):
      return ["mirror": .string(location), "in_step": false, "error": .string("\(failure.report)")]
    case .success(let difference):
      return [
        "mirror": .string(location), "in_step": .bool(difference.isInStep),
        "missing": .object(
          Dictionary(
            uniqueKeysWithValues: ObjectKind.allCases.filter { difference.count($0) > 0 }.map {
              ($0.rawValue, .integer(Int64(difference.count($0))))
            })),
        "missing_bytes": .integer(Int64(difference.missingBytes)),
        "only_there": .integer(Int64(difference.extra.count)),
      ]
    }
  }
  try options.show(json) { style in
    results.flatMap { location, result -> [String] in
      switch result {
      case .failure(let failure):
        return ["\(style.paint("failed", .bad)) \(location.harmless): \(failure.report.summary.harmless)"]
      case .success(let difference):
        let standing =
          difference.isInStep
          ? style.paint("in step", .good)
          : "\(style.paint("behind", .warning)) by \(difference.missing.count.of("file")), "
            + formatBytes(Int64(difference.missingBytes))
        let more = difference.extra.isEmpty ? "" : "; \(difference.extra.count.of("file")) only there"
        return ["\(location.harmless): \(standing)\(more)"]
      }
    }
  }
  let behind = results.count { if case .success(let difference) = $0.1 { !difference.isInStep } else { true } }
  if fails, behind > 0 {
    throw CommandFailure(
      .validationFailed,
      Report("VAULT-198", "\(behind.of("mirror")) of \(results.count) behind, or out of reach").state(
        "nothing was changed"
      )
      .remedy("run `salvor vault mirror sync`"))
  }
}
