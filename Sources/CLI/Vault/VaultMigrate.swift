import ArgumentParser
import Console
import Core
import Runtime
import Vault

extension VaultCommand {
  struct Migrate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "migrate", abstract: "Bring a repository to a newer version of its format.",
      discussion: """
        Without a name, says what there is to do. upgrade_repo_v2 takes version 1 to version 2, which compresses what is \
        written from then on; restic from 0.14 on reads both. The repository is checked before. If the upgrade is interrupted, \
        run it again: the new config is kept in the state directory until it is in place.

        EXAMPLES
          salvor vault migrate
          salvor vault migrate upgrade_repo_v2
          salvor vault prune --repack-uncompressed      compresses what is there
        """)

    enum Name: String, CaseIterable, ExpressibleByArgument { case upgrade = "upgrade_repo_v2" }

    @Argument(help: "upgrade_repo_v2.") var name: Name?
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let upgrade = ConfigUpgrade(options.host)
      guard name != nil else { return try await list() }
      let store = try await options.store()
      if try await upgrade.isPending(in: store), try await !store.contains(.config) {
        try await upgrade.finish(
          store, password: try await options.password(), settings: try options.vaultSettings())
        return try show(wasPending: true)
      }
      let line = options.progress
      let mirrors = try options.mirrorStores()
      let behind = try await options.locked(exclusive: true, needsLock: true, loadingIndex: false) { repository in
        guard repository.config.version == 1 else { return [(mirror: any ObjectStore, reason: String)]() }
        let report = try await repository.check { progress in
          line.show("check \(progress.phase)", "\(progress.done)")
        }
        line.clear()
        if let damage = report.damage.first {
          throw CommandFailure(
            .validationFailed,
            Report("VAULT-214", "the repository is damaged: \(damage.report.code): \(damage.report.summary)")
              .state("nothing was changed").remedy("`salvor vault check` lists every finding; mend them first"))
        }
        return try await upgrade.run(repository, mirrors: mirrors)
      }
      for (mirror, reason) in behind { options.warnOfMirror(mirror, reason) }
      try show(wasPending: false)
    }

    private func list() async throws {
      let version = try await options.locked(loadingIndex: false) { $0.config.version }
      let names = version == 1 ? [Name.upgrade.rawValue] : []
      let json: JSONValue = ["version": .integer(Int64(version)), "available": .array(names.map { .string($0) })]
      try options.show(json) { _ in
        ["the repository has version \(version)"]
          + (names.isEmpty ? ["nothing to migrate"] : names.map { "available: \($0)" })
      }
    }

    private func show(wasPending: Bool) throws {
      let json: JSONValue = ["version": 2, "was_interrupted": .bool(wasPending)]
      try options.show(json) { _ in
        [(wasPending ? "an interrupted upgrade was finished: " : "") + "the repository has version 2 now"]
      }
    }
  }
}
