import CShim
import Core
import DriverKit
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverFiles

#if canImport(Glibc)
  import Glibc
#endif

/// What is set aside is a file of the tree, whatever the way there turns into meanwhile.
@Suite struct SetAsideTests {
  /// Exchanges two names as fast as it can, on a thread of its own, until it is stopped.
  private final class Swapper: @unchecked Sendable {
    private let stopped = Mutex(false)
    private var thread = pthread_t()
    private let names: (String, String)

    init(_ a: String, _ b: String) {
      names = (a, b)
      pthread_create(
        &thread, nil,
        { pointer in
          let swapper = Unmanaged<Swapper>.fromOpaque(pointer!).takeUnretainedValue()
          while !swapper.stopped.withLock({ $0 }) { salvor_rename_exchange(swapper.names.0, swapper.names.1) }
          return nil
        }, Unmanaged.passUnretained(self).toOpaque())
    }

    func stop() {
      stopped.withLock { $0 = true }
      pthread_join(thread, nil)
    }
  }

  @Test(.timeLimit(.minutes(10)), arguments: ["directory", "file"])
  func `a link that is swapped in while a file is set aside takes nothing from elsewhere`(_ kind: String) async throws {
    let directory = try TemporaryDirectory("set-aside")
    let root = directory.file("tree")
    let outside = directory.file("outside")
    for path in ["\(root)/d", outside] { try Files.createDirectory(path) }
    let content = Array("the same in both places".utf8)
    let digest = Digest.of(content).hex
    try Files.replace("\(outside)/x", with: content)
    if kind == "directory" {
      #expect(symlink(outside, "\(root)/e") == 0)
    } else {
      #expect(symlink("\(outside)/x", "\(root)/d/y") == 0)
    }
    let environment = DriverEnvironment(time: SystemTime(), randomness: SystemRandomness(), pool: .shared) {
      (_) async throws(AnyFailure) in Secret("")
    }
    let driver = FilesDriver(
      path: root, excludes: [], lockFile: nil, isImmutable: false, log: nil, environment: environment)
    var moved = 0
    for round in 0..<120 {
      let file = "\(root)/d/x"
      try Files.replace(file, with: content)
      let swapper = kind == "directory" ? Swapper("\(root)/d", "\(root)/e") : Swapper(file, "\(root)/d/y")
      let effect = try await driver.make(.setAside(path: "d/x", sizeBytes: Int64(content.count), sha256: digest))
      swapper.stop()
      if case .changed = effect { moved += 1 }
      #expect(try Files.read("\(outside)/x") == content, "round \(round)")
      // As it was, for the next round.
      if kind == "directory" {
        var information = stat()
        lstat("\(root)/d", &information)
        if information.st_mode & S_IFMT == S_IFLNK { salvor_rename_exchange("\(root)/d", "\(root)/e") }
      } else {
        for name in ["x", "y"] { try? Files.removeTree("\(root)/d/\(name)") }
        #expect(symlink("\(outside)/x", "\(root)/d/y") == 0)
      }
      // What stands aside is the file, and no link to one.
      let aside = directory.file(".salvor-aside-tree") + "/d/x"
      if case .changed = effect {
        var information = stat()
        #expect(lstat(aside, &information) == 0 && information.st_mode & S_IFMT == S_IFREG, "round \(round)")
      }
      try Files.removeTree(directory.file(".salvor-aside-tree"))
    }
    #expect(moved > 0)
  }
}
