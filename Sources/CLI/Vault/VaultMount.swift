import ArgumentParser
import Console
import Core
import Runtime
import Vault

extension VaultCommand {
  struct Mount: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "mount", abstract: "Show snapshots as a directory, read-only, until it is unmounted.",
      discussion: """
        Below the directory are `snapshots`, by time, `ids`, `hosts` and `tags`, each with `latest` where there is an order. \
        Nothing is read before somebody looks; what was read lately is kept in memory. Ends with Ctrl-C, SIGTERM, or \
        `umount DIR`. A file that is damaged gives an input/output error, and a line here says what is wrong. A shared lock is \
        held meanwhile: backups go on, a prune waits.

        EXAMPLES
          salvor vault mount /mnt/backup
          salvor vault mount --host db1 --owner-root /mnt/backup
          cp -a /mnt/backup/snapshots/latest/etc/nginx /etc
        """)

    @Argument(help: "An existing directory.", completion: .directory) var directory: String
    @Flag(help: "Let other users look, as far as modes and owners allow.") var allowOther = false
    @Flag(help: "With --allow-other: let them read everything.") var noDefaultPermissions = false
    @Flag(help: "Show everything as root's.") var ownerRoot = false
    @Option(help: ArgumentHelp("How much content is kept in memory.", valueName: "MiB")) var cacheSize = 64
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func validate() throws {
      if !(1...65_536).contains(cacheSize) { throw ValidationError("--cache-size wants 1 to 65536 MiB") }
    }

    func run() async throws {
      let (command, host, directory) = (self, options.host, absolute(directory))
      let quiet = options.output.quiet
      // The lock is given back, and the directory, after the signal that ends it.
      try await Interruption.finishing { stopped in
        try await command.options.locked { repository in
          let files = SnapshotFileSystem(
            repository, cacheBytes: command.cacheSize << 20, ownsAsRoot: command.ownerRoot,
            passes: { command.filter.matches($0) }, tell: { standardError("damage: \($0.harmless)\n") })
          try await files.prepare()
          try await Registry.mount(
            files, at: directory, allowsOthers: command.allowOther, checksPermissions: !command.noDefaultPermissions,
            host: host, until: stopped
          ) {
            if !quiet { standardError("mounted on \(directory.harmless); Ctrl-C or umount ends it\n") }
          }
        }
      }
    }
  }
}
