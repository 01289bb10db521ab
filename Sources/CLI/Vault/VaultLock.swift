import ArgumentParser
import Console
import Core
import Foundation
import Vault

extension VaultCommand {
  struct Lock: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "lock", abstract: "Keep what snapshots need from being deleted, by a bucket's Object Lock.",
      discussion: """
        What is written while SALVOR_S3_LOCK says so is locked from its first moment. A snapshot may need data that an \
        earlier one wrote, and whose lock runs out first: these commands see to every object that any snapshot needs. \
        They are not about the repository's own locks, which `unlock` removes.

        EXAMPLES
          export SALVOR_S3_LOCK=compliance:30d
          salvor vault lock extend
          salvor vault lock extend --for 60d
          salvor vault lock hold
          salvor vault lock release
        """,
      subcommands: [Extend.self, Hold.self, Release.self])

    struct Extend: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "extend", abstract: "Lock everything that snapshots need for as long again.",
        discussion: """
          Locks that last longer already stay as they are; none is ever shortened. Run it after each backup, or at least \
          once within the time that SALVOR_S3_LOCK gives.

          EXAMPLES
            salvor vault lock extend
            salvor vault lock extend --for 60d
          """)
      @Option(
        name: .customLong("for"),
        help: ArgumentHelp("From now on, such as 30d (default: as SALVOR_S3_LOCK says).", valueName: "duration"))
      var duration: String?
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let usual = ProcessInfo.processInfo.environment["SALVOR_S3_LOCK"]?.split(separator: ":").last.map(String.init)
        guard let text = duration ?? usual, let length = Duration(text: text), length >= .seconds(1) else {
          throw ValidationError("say for how long, such as --for 30d; or set SALVOR_S3_LOCK, such as to governance:30d")
        }
        let until = Timestamp(seconds: (options.host.time.now() + length).nanoseconds / 1_000_000_000)
        try await change(.extend(until: until), options, "locked until \(until.format(fractionDigits: 0))")
      }
    }

    struct Hold: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "hold", abstract: "Put everything that snapshots need under legal hold.",
        discussion: "It stays until it is released, however long that is.\n\nEXAMPLES\n  salvor vault lock hold")
      @OptionGroup var options: RepositoryOptions
      func run() async throws { try await change(.hold, options, "under legal hold") }
    }

    struct Release: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "release", abstract: "Take the legal hold off what snapshots need.",
        discussion: "Locks with a date stay.\n\nEXAMPLES\n  salvor vault lock release")
      @OptionGroup var options: RepositoryOptions
      func run() async throws { try await change(.release, options, "free of legal hold") }
    }
  }
}

private func change(_ change: ObjectLockChange, _ options: RepositoryOptions, _ what: String) async throws {
  let line = options.progress
  let report = try await options.locked(needsLock: true) { repository in
    guard repository.store.locksObjects else {
      throw CommandFailure(
        .refused,
        Report("VAULT-181", "nothing is locked in \(repository.store.location)").state("nothing was changed")
          .remedy("use a bucket made with Object Lock, and set SALVOR_S3_LOCK, such as to governance:30d"))
    }
    return try await repository.setLocks(change) { line.show($0) }
  }
  line.clear()
  try options.show(report) { _ in
    [
      "\(report.objects.of("object")) of \(report.snapshots.of("snapshot")), \(report.packs.of("pack")) among them: \(what)"
    ]
  }
}
