import pytest, torch
from jaxtyping import TypeCheckError
from pcdistill.core import rng
from pcdistill.patches import from_patches, to_patches

@pytest.mark.parametrize('c,h,w,p', [(1,8,8,4), (3,32,32,4), (3,32,32,8), (3,8,12,2), (1,28,28,7), (1,28,28,14), (3,6,6,6), (2,3,5,1)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.int16, torch.float32])
def test_there_and_back(c, h, w, p, dtype):
    y = torch.randint(0, 250, (4, c, h, w), generator=rng(0)).to(dtype)
    y_bnd = to_patches(y, p)
    assert y_bnd.shape==(4, h*w//p**2, p*p*c) and y_bnd.dtype==dtype
    assert (from_patches(y_bnd, p, c, h, w)==y).all()

def test_order_of_every_variable():
    b, c, h, w, p = 2, 3, 4, 6, 2
    y = torch.arange(b*c*h*w).reshape(b, c, h, w); y_bnd = to_patches(y, p)
    for i in range(h):
        for j in range(w):
            for k in range(c): assert (y_bnd[:, (i//p)*(w//p) + j//p, ((i%p)*p + j%p)*c + k]==y[:, k, i, j]).all()

@pytest.mark.parametrize('p', [3, 0, -2, 5, 16])
def test_patch_size_that_does_not_divide(p, refuses):
    refuses(lambda: to_patches(torch.zeros(1, 1, 8, 8), p), 'divides', '8×8')
    refuses(lambda: from_patches(torch.zeros(1, 4, 16), p, 1, 8, 8), 'divides')

def test_patches_of_another_shape(refuses):
    refuses(lambda: from_patches(torch.zeros(1, 4, 16), 4, 3, 8, 8), '48')

def test_shape_annotations_are_checked_here():
    with pytest.raises(TypeCheckError): to_patches(torch.zeros(8, 8), 4)
