// A Python module of the maps of csrc/cuda/tensor (maps.hpp, work.hpp), for tests/test_tensor_maps.py.

#include <pybind11/pybind11.h>

#include "cuda/device/fragments.cuh"
#include "cuda/tensor/maps.hpp"
#include "cuda/tensor/work.hpp"

namespace py = pybind11;
namespace tensor = gradhess::cuda::tensor;
namespace device = gradhess::cuda::device;

PYBIND11_MODULE(_tensor_maps, module) {
    const auto pair = [](auto p) { return py::make_tuple(p.row, p.column); };

    module.def("tile_byte", &tensor::tile_byte);
    module.def("box_byte", &tensor::box_byte);
    module.def("left_address", [pair](int lane) { return pair(tensor::left_address(lane)); });
    module.def("right_address", [pair](int lane) { return pair(tensor::right_address(lane)); });
    module.def("wgmma_cell", [pair](int thread, int i) { return pair(tensor::wgmma_cell(thread, i)); });
    module.def("a_entry", [pair](int lane, int i) { return pair(device::a_entry_16x16(lane, i)); });
    module.def("b_entry", [pair](int lane, int i) { return pair(device::b_entry_16x8(lane, i)); });
    module.def("c_entry", [pair](int lane, int i) { return pair(device::c_entry_16x8(lane, i)); });
    module.def("matrix_descriptor", &tensor::matrix_descriptor);
    module.def("descriptor_fields", [](std::uint64_t descriptor) {
        const auto f = tensor::descriptor_fields(descriptor);
        return py::make_tuple(f.start, f.leading, f.stride, f.base_offset, f.swizzle);
    });
    module.def("operand_byte", &tensor::operand_byte);
    // Work items of an update: [(gram row, gram column, rows, columns, diagonal, first row, last row), ...]
    module.def("work_items", [](tensor::Index first_row, tensor::Index rows, tensor::Index columns,
                                tensor::Index blocks, tensor::Index block_pitch, bool split) {
        tensor::UpdateJob job{};
        float keep = 0;
        job.rows = rows;
        job.first_row = first_row;
        job.columns = columns;
        job.blocks = blocks;
        job.block_pitch = block_pitch;
        job.partial = split ? &keep : nullptr;
        job.tiles = tensor::tiles_of_update(columns, blocks);
        job.segments = tensor::segments_of(first_row, rows);
        py::list items;
        for (tensor::Index item = 0; item < tensor::items_of(job); ++item) {
            const auto work = tensor::work_of(job, item);
            items.append(py::make_tuple(work.gram_row, work.gram_column, work.valid_rows, work.valid_columns,
                                        work.diagonal, work.left_column, work.right_column, work.begin, work.end));
        }
        return items;
    });
}
