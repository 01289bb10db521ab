import Core
import Testing

@testable import Governance

/// The hash as the RFC defines it, with none of the code under test but the two hashes themselves.
func naiveRoot(_ leaves: ArraySlice<[UInt8]>) -> Digest {
  switch leaves.count {
  case 0: return Digest.of([UInt8]())
  case 1: return Digest.of([0] + leaves[leaves.startIndex])
  default:
    var split = 1
    while split * 2 < leaves.count { split *= 2 }
    let middle = leaves.startIndex + split
    return Digest.of([1] + naiveRoot(leaves[..<middle]).bytes + naiveRoot(leaves[middle...]).bytes)
  }
}

func leaves(_ count: Int) -> [[UInt8]] { (0..<count).map { Array("entry \($0)".utf8) } }

/// A tree in memory.
func subtrees(_ hashes: [Digest]) -> (Int, Int64) throws(LogError) -> Digest {
  { (level, index) throws(LogError) in
    LogReader.fold(hashes[Int(index) << level..<(Int(index) + 1) << level])
  }
}

@Suite("Merkle tree") struct MerkleTests {
  /// What Certificate Transparency's own tests have used since the beginning.
  static let known: [[UInt8]] = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
  ].map { Hex.decode($0)! }
  static let roots = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
  ]

  @Test func `the vectors of Certificate Transparency`() throws {
    let tree = subtrees(Self.known.map(MerkleTree.leaf))
    for (size, root) in Self.roots.enumerated() {
      #expect(try MerkleTree.root(of: Int64(size), tree).hex == root, "\(size) leaves")
    }
    #expect(
      try MerkleTree.inclusion(of: 0, in: 8, tree).map(\.hex) == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
      ])
    #expect(
      try MerkleTree.consistency(from: 1, to: 8, tree).map(\.hex) == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
      ])
    #expect(
      try MerkleTree.consistency(from: 6, to: 8, tree).map(\.hex) == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
      ])
  }

  @Test func `every size to 300 has the root of the naive tree`() throws {
    let all = leaves(300)
    let tree = subtrees(all.map(MerkleTree.leaf))
    for size in 0...300 { #expect(try MerkleTree.root(of: Int64(size), tree) == naiveRoot(all[..<size]), "\(size)") }
  }

  @Test func `every leaf of every size is proved, and at no other place`() throws {
    let all = leaves(300)
    let hashes = all.map(MerkleTree.leaf)
    let tree = subtrees(hashes)
    // Every leaf of small trees, and of large ones those at the edges of what is folded.
    for size in Array(1...40) + [63, 64, 65, 127, 128, 129, 255, 256, 257, 300] {
      let root = try MerkleTree.root(of: Int64(size), tree)
      let indices = size <= 40 ? Array(0..<size) : [0, 1, size / 2, size - 2, size - 1]
      for index in indices {
        let proof = try MerkleTree.inclusion(of: Int64(index), in: Int64(size), tree)
        func leads(_ leaf: Digest, _ index: Int, _ size: Int, _ proof: [Digest]) -> Bool {
          MerkleTree.root(from: leaf, at: Int64(index), in: Int64(size), proof) == root
        }
        #expect(leads(hashes[index], index, size, proof))
        for other in [index - 1, index + 1, index ^ 1, size, -1] where other != index {
          #expect(!leads(hashes[index], other, size, proof), "leaf \(index) of \(size) at \(other)")
        }
        #expect(!leads(hashes[(index + 1) % 300], index, size, proof))
        #expect(!leads(hashes[index], index, size, proof + [root]))
        if !proof.isEmpty { #expect(!leads(hashes[index], index, size, Array(proof.dropLast()))) }
        for place in proof.indices {
          var changed = proof
          changed[place] = Digest.of(changed[place].bytes)
          #expect(!leads(hashes[index], index, size, changed))
        }
      }
    }
  }

  @Test func `every size is shown to go on from every one before it`() throws {
    let all = leaves(300)
    let tree = subtrees(all.map(MerkleTree.leaf))
    let roots = try (0...300).map { try MerkleTree.root(of: Int64($0), tree) }
    for size in Array(0...33) + [64, 100, 255, 256, 257, 300] {
      for old in 0...size where size <= 33 || old % 7 == 0 || size - old < 3 {
        let proof = try MerkleTree.consistency(from: Int64(old), to: Int64(size), tree)
        func fits(_ old: Int, _ oldRoot: Digest, _ size: Int, _ root: Digest, _ proof: [Digest]) -> Bool {
          MerkleTree.isConsistent(from: Int64(old), oldRoot, to: Int64(size), root, proof)
        }
        #expect(fits(old, roots[old], size, roots[size], proof), "\(old) to \(size)")
        let other = Digest.of("other")
        #expect(!fits(old, other, size, roots[size], proof))
        if old > 0 {
          #expect(!fits(old, roots[old], size, other, proof))
          #expect(!fits(old, roots[old], size, roots[size], proof + [other]))
        }
        if !proof.isEmpty { #expect(!fits(old, roots[old], size, roots[size], Array(proof.dropLast()))) }
        for place in proof.indices {
          var changed = proof
          changed[place] = other
          #expect(!fits(old, roots[old], size, roots[size], changed), "\(old) to \(size), hash \(place)")
        }
      }
    }
  }

  @Test func `sizes and places that no tree has are refused`() {
    let leaf = Digest.of("leaf")
    let many = [Digest](repeating: leaf, count: 64)
    for (index, size) in [(-1, 1), (1, 1), (0, 0), (0, -1), (Int64.max, Int64.max), (0, Int64.max)] as [(Int64, Int64)]
    {
      #expect(MerkleTree.root(from: leaf, at: index, in: size, many) == nil)
      #expect(MerkleTree.root(from: leaf, at: index, in: size, []) == nil)
    }
    #expect(!MerkleTree.isConsistent(from: 2, leaf, to: 1, leaf, []))
    #expect(!MerkleTree.isConsistent(from: -1, leaf, to: 1, leaf, []))
    #expect(!MerkleTree.isConsistent(from: 1, leaf, to: .max, leaf, many))
  }

  @Test func `files are named as the specification has it`() {
    #expect(TileName(level: 0, index: 1_234_067).description == "tile/0/x001/x234/067")
    #expect(TileName(level: 2, index: 0, width: 17).description == "tile/2/000.p/17")
    #expect(TileName(level: nil, index: 1000, width: 1).description == "tile/entries/x001/000.p/1")
    let names = TileName.new(from: 0, to: 70_000).filter { $0.level != nil }
    #expect(names.filter { $0.level == 0 && $0.isWhole }.count == 273)
    #expect(
      names.filter { !$0.isWhole } == [
        TileName(level: 0, index: 273, width: 112), TileName(level: 1, index: 1, width: 17),
        TileName(level: 2, index: 0, width: 1),
      ])
    #expect(TileName.new(from: 0, to: 256).map(\.description) == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"])
    #expect(TileName.new(from: 255, to: 257).map(\.description).contains("tile/0/001.p/1"))
    #expect(TileName.new(from: 9, to: 9).isEmpty)
  }
}
